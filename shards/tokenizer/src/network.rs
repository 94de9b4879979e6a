//! The two networks, as plain tensors: what OpenAI's `dall_e.Encoder` and `dall_e.Decoder` compute.
//!
//! Source: arXiv:2102.12092 and the `dall-e` package. Activations are channels-last, in whatever kind the caller's
//! input has; each convolution casts its weights to the kind of its input, so master weights stay fp32.

use crate::error::{TokenizerError, torch};
use crate::geometry::Geometry;
use crate::weights::Weights;
use tch::{Kind, Tensor};

/// One convolution, stride 1, zero padding that keeps the size.
#[derive(Debug)]
pub(crate) struct Conv {
    pub(crate) name: String,
    pub(crate) weight: Tensor, // [out, in, k, k], channels last
    pub(crate) bias: Tensor,   // [out]
    pub(crate) inputs: i64,
    pub(crate) outputs: i64,
    kernel: i64,
}

impl Conv {
    /// Takes `{name}.w` and `{name}.b` out of `weights`.
    pub(crate) fn take(
        weights: &mut Weights,
        name: &str,
        expect_inputs: i64,
    ) -> Result<Self, TokenizerError> {
        let weight = weights.take(&format!("{name}.w"))?;
        let bias = weights.take(&format!("{name}.b"))?;
        let size = weight.size();
        let bad = |problem: String| weights.shape(&format!("{name}.w"), problem);
        let [outputs, inputs, kernel, kernel_w] = size[..] else {
            return Err(bad(format!("has shape {size:?}; a convolution's is [out, in, k, k]")));
        };
        if kernel != kernel_w || kernel % 2 == 0 {
            return Err(bad(format!("has shape {size:?}; the kernel must be square and odd")));
        }
        if inputs != expect_inputs {
            return Err(bad(format!("has shape {size:?}, but {expect_inputs} channels come in")));
        }
        if bias.size() != [outputs] {
            return Err(weights.shape(
                &format!("{name}.b"),
                format!("has shape {:?}, but the convolution has {outputs} outputs", bias.size()),
            ));
        }
        let weight = channels_last(&weight)?;
        Ok(Self { name: name.to_owned(), weight, bias, inputs, outputs, kernel })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor, TokenizerError> {
        let pad = (self.kernel - 1) / 2;
        let kind = x.kind();
        let verb = torch("running a convolution");
        if self.weight.kind() == kind {
            return x.f_conv2d(&self.weight, Some(&self.bias), 1, pad, 1, 1).map_err(verb);
        }
        let weight = self.weight.f_to_kind(kind).map_err(&verb)?;
        let bias = self.bias.f_to_kind(kind).map_err(&verb)?;
        x.f_conv2d(&weight, Some(&bias), 1, pad, 1, 1).map_err(verb)
    }
}

/// `id(x) + gain · res(x)`, where res is ReLU and convolution, four times.
#[derive(Debug)]
struct Block {
    name: String,
    id: Option<Conv>,
    res: [Conv; 4],
    gain: f64,
}

impl Block {
    fn take(weights: &mut Weights, name: &str, inputs: i64, gain: f64) -> Result<Self, TokenizerError> {
        let conv_1 = Conv::take(weights, &format!("{name}.res_path.conv_1"), inputs)?;
        let conv_2 = Conv::take(weights, &format!("{name}.res_path.conv_2"), conv_1.outputs)?;
        let conv_3 = Conv::take(weights, &format!("{name}.res_path.conv_3"), conv_2.outputs)?;
        let conv_4 = Conv::take(weights, &format!("{name}.res_path.conv_4"), conv_3.outputs)?;
        let id = match weights.has(&format!("{name}.id_path.w")) {
            true => Some(Conv::take(weights, &format!("{name}.id_path"), inputs)?),
            false => None,
        };
        let around = id.as_ref().map_or(inputs, |id| id.outputs);
        if around != conv_4.outputs {
            return Err(weights.shape(
                &format!("{name}.res_path.conv_4.w"),
                format!("has {} outputs, but the path around it has {around}", conv_4.outputs),
            ));
        }
        Ok(Self { name: name.to_owned(), id, res: [conv_1, conv_2, conv_3, conv_4], gain })
    }

    fn outputs(&self) -> i64 {
        self.res[3].outputs
    }

    fn convs(&self) -> impl Iterator<Item = &Conv> {
        self.id.iter().chain(&self.res)
    }

    fn convs_mut(&mut self) -> impl Iterator<Item = &mut Conv> {
        self.id.iter_mut().chain(&mut self.res)
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor, TokenizerError> {
        let verb = torch("running a residual block");
        let mut h = x.f_relu().map_err(&verb)?;
        for (i, conv) in self.res.iter().enumerate() {
            if i > 0 {
                h = h.f_relu_().map_err(&verb)?; // in place: a convolution does not need its own output to go back
            }
            h = conv.forward(&h)?;
        }
        let mut h = h.f_mul_scalar_(self.gain).map_err(&verb)?;
        match &self.id {
            None => h.f_add_(x).map_err(verb),
            Some(id) => h.f_add_(&id.forward(x)?).map_err(verb),
        }
    }
}

/// The groups of residual blocks between an input and an output convolution.
#[derive(Debug)]
struct Trunk {
    input: Conv,
    groups: Vec<Vec<Block>>,
    output: Conv,
}

impl Trunk {
    fn take(weights: &mut Weights, inputs: i64, gain: Option<f64>) -> Result<Self, TokenizerError> {
        let input = Conv::take(weights, "blocks.input", inputs)?;
        let shape = weights.block_counts()?;
        let layers = shape.iter().sum::<u32>();
        let mut width = input.outputs;
        let mut groups = Vec::new();
        for (g, &blocks) in shape.iter().enumerate() {
            let mut group = Vec::new();
            for k in 1..=blocks {
                let name = format!("blocks.group_{}.block_{k}", g + 1);
                let gain = weights.gain(&name).or(gain).unwrap_or(1.0 / f64::from(layers).powi(2));
                let block = Block::take(weights, &name, width, gain)?;
                width = block.outputs();
                group.push(block);
            }
            groups.push(group);
        }
        let output = Conv::take(weights, "blocks.output.conv", width)?;
        weights.finish()?;
        Ok(Self { input, groups, output })
    }

    fn convs(&self) -> impl Iterator<Item = &Conv> {
        let blocks = self.groups.iter().flatten().flat_map(Block::convs);
        std::iter::once(&self.input).chain(blocks).chain(std::iter::once(&self.output))
    }

    fn convs_mut(&mut self) -> impl Iterator<Item = &mut Conv> {
        let blocks = self.groups.iter_mut().flatten().flat_map(Block::convs_mut);
        std::iter::once(&mut self.input).chain(blocks).chain(std::iter::once(&mut self.output))
    }

    fn gains(&self) -> Vec<(String, f64)> {
        self.groups.iter().flatten().map(|block| (block.name.clone(), block.gain)).collect()
    }
}

/// Pixels in, one logit per code and token out.
#[derive(Debug)]
pub(crate) struct Encoder(Trunk);

impl Encoder {
    /// Builds the encoder from all of `weights`; `gain` overrides 1/layers² where a block does not say its own.
    pub(crate) fn new(mut weights: Weights, gain: Option<f64>) -> Result<Self, TokenizerError> {
        Trunk::take(&mut weights, 3, gain).map(Self)
    }

    /// Every convolution, from pixels on.
    pub(crate) fn convs(&self) -> impl Iterator<Item = &Conv> {
        self.0.convs()
    }

    /// The same, to be given trainable tensors.
    pub(crate) fn convs_mut(&mut self) -> impl Iterator<Item = &mut Conv> {
        self.0.convs_mut()
    }

    /// The name and gain of every residual block.
    pub(crate) fn block_gains(&self) -> Vec<(String, f64)> {
        self.0.gains()
    }

    /// The last convolution, from features to logits.
    pub(crate) fn head(&self) -> &Conv {
        &self.0.output
    }

    /// What the tensors say; `where_` opens the error of a vocabulary that 16 bits cannot hold.
    pub(crate) fn geometry(&self, where_: &str) -> Result<Geometry, TokenizerError> {
        let (groups, blocks_per_group) = self.shape();
        let vocab = self.0.output.outputs;
        if vocab > 1 << 16 {
            return Err(TokenizerError::VocabTooLarge { where_: where_.to_owned(), vocab });
        }
        let hidden = self.0.input.outputs as u32;
        let post_gain = self.0.groups[0][0].gain;
        Ok(Geometry { groups, blocks_per_group, hidden, vocab: vocab as u32, post_gain })
    }

    /// Number of groups and of blocks in the first of them.
    pub(crate) fn shape(&self) -> (u32, u32) {
        (self.0.groups.len() as u32, self.0.groups[0].len() as u32)
    }

    /// Mapped pixels [B, 3, S, S] → features [B, D, S/stride, S/stride], in the kind of `x`.
    fn features(&self, x: &Tensor) -> Result<Tensor, TokenizerError> {
        let mut x = self.0.input.forward(x)?;
        let last = self.0.groups.len() - 1;
        for (g, group) in self.0.groups.iter().enumerate() {
            for block in group {
                x = block.forward(&x)?;
            }
            if g < last {
                x = x.f_max_pool2d(2, 2, 0, 1, false).map_err(torch("halving the image"))?;
            }
        }
        x.f_relu_().map_err(torch("running the encoder"))
    }

    /// Mapped pixels [B, 3, S, S] → fp32 logits [B, V, S/stride, S/stride].
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor, TokenizerError> {
        let features = self.features(x)?.f_to_kind(Kind::Float).map_err(torch("running the encoder"))?;
        self.0.output.forward(&features)
    }
}

/// Codes (one-hot, or a mixture of them) in, the two maps of a logit-Laplace distribution per colour out.
#[derive(Debug)]
pub(crate) struct Decoder(Trunk);

impl Decoder {
    /// Builds the decoder from all of `weights`; `gain` overrides 1/layers² where a block does not say its own.
    pub(crate) fn new(mut weights: Weights, vocab: i64, gain: Option<f64>) -> Result<Self, TokenizerError> {
        let trunk = Trunk::take(&mut weights, vocab, gain)?;
        if trunk.output.outputs != 6 {
            return Err(weights.shape(
                "blocks.output.conv.w",
                format!(
                    "has {} outputs; a decoder has 6 (place and width for three colours)",
                    trunk.output.outputs
                ),
            ));
        }
        Ok(Self(trunk))
    }

    /// Every convolution, from codes on.
    pub(crate) fn convs(&self) -> impl Iterator<Item = &Conv> {
        self.0.convs()
    }

    /// The same, to be given trainable tensors.
    pub(crate) fn convs_mut(&mut self) -> impl Iterator<Item = &mut Conv> {
        self.0.convs_mut()
    }

    /// The name and gain of every residual block.
    pub(crate) fn block_gains(&self) -> Vec<(String, f64)> {
        self.0.gains()
    }

    /// Number of groups.
    pub(crate) fn groups(&self) -> u32 {
        self.0.groups.len() as u32
    }

    /// Weights over the codes [B, V, h, w] → fp32 maps [B, 6, h·stride, w·stride]; `kind` is that of the inner layers.
    pub(crate) fn forward(&self, codes: &Tensor, kind: Kind) -> Result<Tensor, TokenizerError> {
        self.after_input(self.0.input.forward(codes)?, kind)
    }

    /// Token ids [B, h, w] → fp32 maps [B, 6, h·stride, w·stride], without making the one-hot codes.
    pub(crate) fn forward_tokens(&self, tokens: &Tensor) -> Result<Tensor, TokenizerError> {
        let verb = torch("looking codes up");
        let input = &self.0.input;
        if input.kernel != 1 {
            let hot = tokens.f_one_hot(input.inputs).map_err(&verb)?;
            let hot = hot.f_permute([0, 3, 1, 2]).and_then(|t| t.f_to_kind(Kind::Float)).map_err(&verb)?;
            return self.forward(&hot, Kind::Float);
        }
        let table =
            input.weight.f_view([input.outputs, input.inputs]).and_then(|w| w.f_tr()).map_err(&verb)?;
        let table = table.f_contiguous().map_err(&verb)?; // [V, n_init]
        let rows = Tensor::f_embedding(&table, tokens, -1, false, false).map_err(&verb)?; // [B, h, w, n_init]
        let x = rows.f_add(&input.bias).and_then(|t| t.f_permute([0, 3, 1, 2])).map_err(verb)?;
        self.after_input(x, Kind::Float)
    }

    fn after_input(&self, x: Tensor, kind: Kind) -> Result<Tensor, TokenizerError> {
        let verb = torch("running the decoder");
        let mut x = x.f_to_kind(kind).map_err(&verb)?;
        let last = self.0.groups.len() - 1;
        for (g, group) in self.0.groups.iter().enumerate() {
            for block in group {
                x = block.forward(&x)?;
            }
            if g < last {
                let (_, _, h, w) = x.size4().map_err(&verb)?;
                x = x.f_upsample_nearest2d([2 * h, 2 * w], None, None).map_err(&verb)?;
            }
        }
        let x = x.f_relu_().map_err(&verb)?;
        self.0.output.forward(&x)?.f_to_kind(Kind::Float).map_err(verb)
    }
}

/// The same values, laid out channels-last.
pub(crate) fn channels_last(x: &Tensor) -> Result<Tensor, TokenizerError> {
    x.f_permute([0, 2, 3, 1])
        .and_then(|t| t.f_contiguous())
        .and_then(|t| t.f_permute([0, 3, 1, 2]))
        .map_err(torch("laying a tensor out"))
}
