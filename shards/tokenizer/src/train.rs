//! Training a dVAE on images: DALL-E's recipe, with two remedies against the collapse of small ones.
//!
//! A Gumbel-softmax relaxation whose temperature falls, a logit-Laplace likelihood, AdamW (arXiv:2102.12092). A small
//! network under that plain recipe ends up with a dozen codes, whatever its PSNR says. Two remedies are therefore on
//! by default: a term that asks the batch as a whole to use many codes ([`Options::usage_weight`]), and a first
//! rescaling of the encoder's head over real images ([`Options::data_init`]).

mod adamw;
mod gumbel;
mod init;
mod loss;
mod measure;
mod options;
mod schedule;

pub use measure::{Measured, Verdict, measure};
pub use options::Options;

use crate::card::Card;
use crate::error::{TokenizerError, torch};
use crate::tokenizer::{Networks, Tokenizer, map_pixels};
use adamw::{AdamW, Hyper};
use gumbel::Gumbel;
use std::time::Instant;
use tch::{Device, Kind};

/// Images of the first rescaling of the head.
const INIT_IMAGES: u32 = 256;

/// Which images are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// The images of one training step.
    Step(u64),
    /// The n-th batch of the images that the head is rescaled over, before the first step.
    Init(u32),
}

/// Fills `[B, px, px, 3]` bytes with training images; B follows from the buffer's length.
pub type Images<'a> = dyn FnMut(Want, &mut [u8]) -> Result<(), Box<dyn std::error::Error + Send + Sync>> + 'a;

/// What is known after one step.
#[derive(Clone, Debug)]
pub struct Progress {
    /// The step that was made, from 0.
    pub step: u64,
    /// All terms together.
    pub loss: f64,
    /// Temperature of the Gumbel-softmax.
    pub tau: f64,
    /// Learning rate.
    pub lr: f64,
    /// Norm of the gradient before clipping.
    pub grad_norm: f64,
    /// exp(entropy) of the batch's mean code distribution.
    pub batch_perplexity: f64,
    /// Images trained on per second of this step.
    pub images_per_s: f64,
    /// Measured over the held-out images, at every [`Options::measure_every`]-th step and the last.
    pub held_out: Option<Measured>,
    /// A sentence for the person watching, when the codes are collapsing.
    pub warning: Option<String>,
}

/// A tokenizer that was just trained.
#[derive(Debug)]
pub struct Trained {
    /// Ready to encode and to be saved.
    pub tokenizer: Tokenizer,
    /// Over the held-out images, at the end.
    pub measured: Measured,
    /// Whether it is fit for use.
    pub verdict: Verdict,
    /// Number of weights, both halves.
    pub weights: usize,
}

/// Trains a tokenizer.
///
/// Same options, images and libtorch thread count: same weights, bit for bit, on the same machine.
///
/// # Shapes
/// `held_out` is `[n, px, px, 3]` bytes, n ≥ 1
/// # Errors
/// options out of range, images that cannot be had, a loss that is not finite
pub fn train(
    options: &Options,
    card: Card,
    images: &mut Images<'_>,
    held_out: &[u8],
    on_progress: &mut dyn FnMut(&Progress),
) -> Result<Trained, TokenizerError> {
    options.check()?;
    if held_out.is_empty() || !held_out.len().is_multiple_of(options.image_bytes()) {
        let problem = format!("{} bytes are not images of {} px", held_out.len(), options.px);
        return Err(TokenizerError::Option { option: "held-out images", problem });
    }
    let mut trainer = Trainer::new(options)?;
    if options.data_init {
        trainer.spread_codes(images)?;
    }
    let mut pixels = vec![0u8; options.batch as usize * options.image_bytes()];
    let mut last = None;
    for step in 0..options.steps {
        let start = Instant::now();
        images(Want::Step(step), &mut pixels).map_err(TokenizerError::Images)?;
        let mut progress = trainer.step(step, &pixels)?;
        progress.images_per_s = f64::from(options.batch) / start.elapsed().as_secs_f64();
        if (step + 1) % options.measure_every.max(1) == 0 || step + 1 == options.steps {
            let measured = measure::networks(&trainer.networks, options.vocab, options.px, held_out)?;
            progress.warning = measured.warning(options.vocab, step + 1, options.steps);
            progress.held_out = Some(measured.clone());
            last = Some(measured);
        }
        on_progress(&progress);
    }
    let measured = last.unwrap_or_default();
    let weights = trainer.optimizer.weights();
    trainer.optimizer.freeze()?;
    let verdict = measured.verdict(options.vocab);
    let tokenizer = Tokenizer::new("the trained tokenizer", card, trainer.networks, Device::Cpu)?;
    Ok(Trained { tokenizer, measured, verdict, weights })
}

/// Everything that changes while training.
struct Trainer<'a> {
    options: &'a Options,
    kind: Kind,
    networks: Networks,
    optimizer: AdamW,
    gumbel: Gumbel,
}

impl<'a> Trainer<'a> {
    fn new(options: &'a Options) -> Result<Self, TokenizerError> {
        let mut networks = init::networks(options, Device::Cpu)?;
        let hyper = Hyper {
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: options.weight_decay,
            clip_norm: options.clip_norm,
        };
        let decoder = networks.decoder.iter_mut().flat_map(|decoder| decoder.convs_mut());
        let optimizer = AdamW::new(networks.encoder.convs_mut().chain(decoder), hyper)?;
        let noise = options.batch as usize * options.positions() * options.vocab as usize;
        let gumbel = Gumbel::new(options.seed, noise, Device::Cpu)?;
        let kind = if options.bf16 { Kind::BFloat16 } else { Kind::Float };
        Ok(Self { options, kind, networks, optimizer, gumbel })
    }

    /// Rescales the encoder's head over the first images.
    fn spread_codes(&mut self, images: &mut Images<'_>) -> Result<(), TokenizerError> {
        let batch = self.options.batch;
        let mut pixels = vec![0u8; batch as usize * self.options.image_bytes()];
        let mut batches = Vec::new();
        for n in 0..INIT_IMAGES.div_ceil(batch) {
            images(Want::Init(n), &mut pixels).map_err(TokenizerError::Images)?;
            batches.push(map_pixels(&pixels, batch as usize, self.options.px, Device::Cpu)?);
        }
        init::spread_codes(&self.networks.encoder, &batches)
    }

    fn step(&mut self, step: u64, pixels: &[u8]) -> Result<Progress, TokenizerError> {
        let o = self.options;
        let verb = torch("training");
        let tau = schedule::temperature(step, o.steps, o.tau_share, o.tau_last);
        let lr = schedule::learning_rate(step, o.steps, o.warmup, o.lr, o.lr_floor);
        let x = map_pixels(pixels, o.batch as usize, o.px, Device::Cpu)?;

        let logits = self.networks.encoder.forward(&x.f_to_kind(self.kind).map_err(&verb)?)?; // [B, V, h, w]
        let (batch, vocab, h, w) = logits.size4().map_err(&verb)?;
        let rows = logits.f_permute([0, 2, 3, 1]).and_then(|t| t.f_reshape([-1, vocab])).map_err(&verb)?;
        let noise = self.gumbel.at(step)?.f_view([-1, vocab]).map_err(&verb)?;
        let noisy = rows.f_add(&noise).and_then(|t| t.f_mul_scalar(1.0 / tau)).map_err(&verb)?;
        let soft = noisy.f_softmax(-1, Kind::Float).map_err(&verb)?; // [B·h·w, V]
        let codes =
            soft.f_view([batch, h, w, vocab]).and_then(|t| t.f_permute([0, 3, 1, 2])).map_err(&verb)?;
        let decoder = self.networks.decoder.as_ref().expect("a network in training has both halves");
        let maps = decoder.forward(&codes.f_to_kind(self.kind).map_err(&verb)?, self.kind)?;

        let mut loss = loss::logit_laplace(&maps, &x)?;
        let log_p = rows.f_log_softmax(-1, Kind::Float).map_err(&verb)?;
        let usage = loss::usage(&log_p.f_exp().map_err(&verb)?)?;
        if o.usage_weight != 0.0 {
            let term = usage.f_mul_scalar(o.usage_weight).map_err(&verb)?;
            loss = loss.f_add(&term).map_err(&verb)?;
        }
        let kl_weight = o.kl_weight * (step as f64 / (o.kl_ramp * o.steps as f64).max(1.0)).min(1.0);
        if kl_weight != 0.0 {
            let term = loss::kl_to_uniform(&log_p, (h * w) as f64, o.image_bytes() as f64)?;
            let term = term.f_mul_scalar(kl_weight).map_err(&verb)?;
            loss = loss.f_add(&term).map_err(&verb)?;
        }
        let value = loss.f_double_value(&[]).map_err(&verb)?;
        if !value.is_finite() {
            return Err(TokenizerError::Diverged { step, loss: value, lr });
        }
        let batch_perplexity = (f64::from(o.vocab).ln() - usage.f_double_value(&[]).map_err(&verb)?).exp();
        let grad_norm = self.optimizer.step(&loss, lr)?;
        let held_out = None;
        Ok(Progress {
            step,
            loss: value,
            tau,
            lr,
            grad_norm,
            batch_perplexity,
            images_per_s: 0.0,
            held_out,
            warning: None,
        })
    }
}
