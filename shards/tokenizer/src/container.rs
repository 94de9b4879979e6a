//! The files that tokenizers come in: OpenAI's pickles, state dicts, and our own single file.
//!
//! Our own is safetensors with the encoder's tensors under `encoder.`, the decoder's under `decoder.`, and text
//! metadata: `format` = `beit-dvae 1`, `card` (JSON), and `gains` (`name=value` lines) where a residual branch's gain
//! is not 1/layers².

use crate::card::Card;
use crate::digest::{named, values};
use crate::error::TokenizerError;
use crate::geometry::Geometry;
use crate::network::{Conv, Decoder, Encoder};
use crate::tokenizer::{Networks, Tokenizer};
use crate::weights::Weights;
use beit_torchfile::{Object, TorchFile, Value};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tch::Device;

/// What stands in our own files' `format`.
const FORMAT: &str = "beit-dvae 1";

/// Names of an encoder file in a folder, in the order they are looked for.
const ENCODERS: [&str; 3] = ["encoder.pkl", "encoder.pth", "encoder.pt"];

impl Tokenizer {
    /// Opens a tokenizer, whatever it lies in.
    ///
    /// `path` is OpenAI's `encoder.pkl` (whole module, zip or legacy container), a folder with it (and `decoder.pkl`),
    /// a state dict of it, or a `.safetensors` file made by [`save`](Self::save). A `decoder.pkl` beside an
    /// `encoder.pkl` is taken along.
    ///
    /// # Errors
    /// [`TokenizerError::NotATokenizer`] says what a wrong file holds instead
    pub fn open(path: &Path, device: Device) -> Result<Self, TokenizerError> {
        if path.is_dir() {
            let encoder = ENCODERS.iter().map(|name| path.join(name)).find(|file| file.is_file());
            let own = path.join("tokenizer.safetensors");
            return match encoder {
                Some(encoder) => Self::open(&encoder, device),
                None if own.is_file() => Self::open(&own, device),
                None => Err(TokenizerError::NoEncoder { path: path.to_owned() }),
            };
        }
        if path.extension().is_some_and(|ext| ext.eq_ignore_ascii_case("safetensors")) {
            return Self::from_safetensors(path, beit_torchfile::read_safetensors(path)?, device);
        }
        let where_ = path.display().to_string();
        let half = Half::read(path)?;
        let mut card = Card { use_float16: half.use_float16, ..Card::default() };
        let encoder = Encoder::new(half.into_weights(path, "the encoder", device)?, None)?;
        let vocab = encoder.geometry(&where_)?.vocab;
        let decoder = match decoder_beside(path) {
            None => None,
            Some(path) => Some(open_decoder(&path, i64::from(vocab), device)?),
        };
        card.about = format!("read from {}", path.file_name().unwrap_or_default().to_string_lossy());
        Self::new(&where_, card, Networks { encoder, decoder }, device)
    }

    /// Our own file, from its bytes; `path` is for messages.
    pub(crate) fn from_safetensors(
        path: &Path,
        file: beit_torchfile::Safetensors,
        device: Device,
    ) -> Result<Self, TokenizerError> {
        let card = match file.metadata.get("card") {
            None => Card::default(),
            Some(json) => serde_json::from_str(json).map_err(|error| TokenizerError::NotATokenizer {
                path: path.to_owned(),
                found: format!("its card cannot be read: {error}"),
            })?,
        };
        let gains = file.metadata.get("gains").map(String::as_str).unwrap_or_default();
        let gains: Vec<(String, f64)> = gains
            .lines()
            .filter_map(|line| {
                line.split_once('=').and_then(|(name, gain)| Some((name.to_owned(), gain.parse().ok()?)))
            })
            .collect();
        let mut encoder = Half { gains: gains.clone(), ..Half::default() };
        let mut decoder = Half { gains, ..Half::default() };
        for (name, tensor) in file.tensors {
            match name.strip_prefix("decoder.") {
                Some(name) => decoder.tensors.push((name.to_owned(), tensor)),
                None => encoder.tensors.push((name, tensor)),
            }
        }
        encoder.strip_prefix("encoder.");
        decoder.gains = decoder
            .gains
            .iter()
            .filter_map(|(n, g)| Some((n.strip_prefix("decoder.")?.to_owned(), *g)))
            .collect();
        let where_ = path.display().to_string();
        let encoder = Encoder::new(encoder.into_weights(path, "the encoder", device)?, None)?;
        let vocab = i64::from(encoder.geometry(&where_)?.vocab);
        let decoder = match decoder.tensors.is_empty() {
            true => None,
            false => {
                let weights = decoder.bag(&format!("{where_}: the decoder"), device)?;
                Some(Decoder::new(weights, vocab, None)?)
            }
        };
        Self::new(&where_, card, Networks { encoder, decoder }, device)
    }

    /// Writes both halves and the card into one `.safetensors` file, atomically.
    ///
    /// # Errors
    /// what the file system says
    pub fn save(&self, path: &Path) -> Result<(), TokenizerError> {
        let networks = self.lock();
        let (groups, blocks) = networks.encoder.shape();
        let usual = Geometry::usual_gain(groups, blocks);
        let mut tensors = half_tensors("encoder", networks.encoder.convs())?;
        let mut gains = gain_lines("encoder", networks.encoder.block_gains(), usual);
        if let Some(decoder) = &networks.decoder {
            tensors.extend(half_tensors("decoder", decoder.convs())?);
            gains += &gain_lines("decoder", decoder.block_gains(), usual);
        }
        let card = serde_json::to_string(self.card()).expect("a card is plain text and numbers");
        let mut metadata =
            BTreeMap::from([("format".to_owned(), FORMAT.to_owned()), ("card".to_owned(), card)]);
        if !gains.is_empty() {
            metadata.insert("gains".to_owned(), gains);
        }
        let tensors = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor));
        beit_torchfile::write_safetensors(path, tensors, &metadata)?;
        Ok(())
    }
}

/// The tensors of one network as a file gave them, under `blocks.…` names.
#[derive(Default)]
struct Half {
    tensors: Vec<(String, beit_torchfile::Tensor)>,
    gains: Vec<(String, f64)>,
    use_float16: Option<bool>,
}

impl Half {
    fn read(path: &Path) -> Result<Self, TokenizerError> {
        let file = TorchFile::open(path)?;
        let mut half = match &file.root {
            Value::Object(module) if module.module("blocks").is_some() => Self {
                tensors: module.named_parameters(path)?,
                gains: module_gains(module),
                use_float16: module
                    .module("blocks.input")
                    .and_then(|conv| conv.attr("use_float16"))
                    .and_then(Value::as_bool),
            },
            _ => Self {
                tensors: file.state_dict(&[
                    "state_dict",
                    "model",
                    "module",
                    "weights",
                    "encoder",
                    "decoder",
                ])?,
                ..Self::default()
            },
        };
        for prefix in ["module.", "encoder.", "decoder.", "enc.", "dec."] {
            half.strip_prefix(prefix);
        }
        Ok(half)
    }

    /// Drops a prefix that all names share.
    fn strip_prefix(&mut self, prefix: &str) {
        if !self.tensors.is_empty() && self.tensors.iter().all(|(name, _)| name.starts_with(prefix)) {
            for (name, _) in &mut self.tensors {
                name.drain(..prefix.len());
            }
            for (name, _) in &mut self.gains {
                if name.starts_with(prefix) {
                    name.drain(..prefix.len());
                }
            }
        }
    }

    fn get(&self, name: &str) -> Option<&beit_torchfile::Tensor> {
        self.tensors.iter().find(|(n, _)| n == name).map(|(_, tensor)| tensor)
    }

    fn bag(self, where_: &str, device: Device) -> Result<Weights, TokenizerError> {
        let mut weights = Weights::new(where_, device);
        for (name, tensor) in &self.tensors {
            if tensor.shape().contains(&0) {
                return Err(weights.shape(name, format!("is empty: shape {:?}", tensor.shape())));
            }
            weights.insert(name, tensor.shape(), &tensor.to_f32_vec())?;
        }
        for (name, gain) in &self.gains {
            weights.insert_gain(name, *gain);
        }
        Ok(weights)
    }

    /// The same, after a look at whether this is an encoder at all.
    fn into_weights(self, path: &Path, half: &str, device: Device) -> Result<Weights, TokenizerError> {
        let not = |found: String| TokenizerError::NotATokenizer { path: path.to_owned(), found };
        let (Some(input), Some(output)) = (self.get("blocks.input.w"), self.get("blocks.output.conv.w"))
        else {
            return Err(not(self.describe()));
        };
        let (into, out) = (input.shape().get(1).copied(), output.shape().first().copied());
        if into != Some(3) && out == Some(6) {
            return Err(not(format!(
                "it is a dVAE decoder of {} codes; give the encoder that belongs to it (encoder.pkl)",
                into.unwrap_or(0)
            )));
        }
        self.bag(&format!("{}: {half}", path.display()), device)
    }

    /// In words, what a file that is no dVAE encoder seems to be.
    fn describe(&self) -> String {
        let has = |part: &str| self.tensors.iter().any(|(name, _)| name.contains(part));
        let kind = if has("patch_embed.proj") && (has("mask_token") || has("lm_head")) {
            "a BEiT pre-training checkpoint"
        } else if has("patch_embed.proj") {
            "a vision transformer checkpoint"
        } else if has("codebook.weight") && has("encoder.0.0.weight") || has("net.0.weight") {
            "a `customized` DiscreteVAE, which is not supported"
        } else {
            "a file of other tensors"
        };
        let names: Vec<&str> = self.tensors.iter().take(3).map(|(name, _)| name.as_str()).collect();
        format!("it holds {} tensors ({}, …) and looks like {kind}", self.tensors.len(), names.join(", "))
    }
}

/// The gain of every residual block of a whole-module pickle.
fn module_gains(module: &Object) -> Vec<(String, f64)> {
    let mut gains = Vec::new();
    let Some(blocks) = module.module("blocks") else { return gains };
    for (group, object) in blocks.children() {
        for (block, object) in object.children() {
            if let Some(gain) = object.attr("post_gain").and_then(Value::as_float) {
                gains.push((format!("blocks.{group}.{block}"), gain));
            }
        }
    }
    gains
}

/// `decoder.pkl` beside `encoder.pkl`, if it is there.
fn decoder_beside(encoder: &Path) -> Option<PathBuf> {
    let name = encoder.file_name()?.to_str()?;
    let decoder = encoder.with_file_name(name.strip_prefix("encoder").map(|rest| format!("decoder{rest}"))?);
    decoder.is_file().then_some(decoder)
}

fn open_decoder(path: &Path, vocab: i64, device: Device) -> Result<Decoder, TokenizerError> {
    let half = Half::read(path)?;
    if half.get("blocks.output.conv.w").is_none_or(|w| w.shape().first() != Some(&6)) {
        return Err(TokenizerError::NotATokenizer {
            path: path.to_owned(),
            found: format!("a dVAE decoder was expected beside the encoder, but {}", half.describe()),
        });
    }
    Decoder::new(half.bag(&path.display().to_string(), device)?, vocab, None)
}

fn half_tensors<'a>(
    half: &str,
    convs: impl Iterator<Item = &'a Conv>,
) -> Result<Vec<(String, beit_torchfile::Tensor)>, TokenizerError> {
    let mut out = Vec::new();
    for (name, tensor) in convs.flat_map(named) {
        let shape: Vec<usize> = tensor.size().iter().map(|&n| n as usize).collect();
        let tensor = beit_torchfile::Tensor::from_f32(&shape, &values(tensor)?)
            .expect("as many values as the shape says");
        out.push((format!("{half}.{name}"), tensor));
    }
    Ok(out)
}

/// `name=value` lines of the gains that are not `usual`.
fn gain_lines(half: &str, gains: Vec<(String, f64)>, usual: f64) -> String {
    let odd = gains.into_iter().filter(|(_, gain)| *gain != usual);
    odd.map(|(name, gain)| format!("{half}.{name}={gain}\n")).collect()
}
