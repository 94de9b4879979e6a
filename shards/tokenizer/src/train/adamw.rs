//! AdamW over one flat vector of weights; the networks' tensors are views into it.

use crate::error::{TokenizerError, torch};
use crate::network::Conv;
use tch::{Kind, Tensor};

/// The constants of AdamW.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hyper {
    pub(super) beta1: f64,
    pub(super) beta2: f64,
    pub(super) eps: f64,
    pub(super) weight_decay: f64,
    /// Greatest norm of the whole gradient; larger ones are scaled down to it.
    pub(super) clip_norm: f64,
}

/// Weights, gradients' moments, and the leaves that autograd sees.
pub(super) struct AdamW {
    hyper: Hyper,
    flat: Tensor, // [P], the master weights
    first: Tensor,
    second: Tensor,
    leaves: Vec<Tensor>,
    step: i32,
}

impl AdamW {
    /// Moves the weights of `convs` into one vector and makes each conv's tensors trainable views of it.
    pub(super) fn new<'a>(convs: impl Iterator<Item = &'a mut Conv>, hyper: Hyper) -> Result<Self, TokenizerError> {
        let verb = torch("laying weights out for training");
        let mut slots: Vec<&mut Tensor> = convs.flat_map(|conv| [&mut conv.weight, &mut conv.bias]).collect();
        let parts: Vec<Tensor> = slots.iter().map(|tensor| in_memory_order(tensor)).collect::<Result<_, _>>()?;
        let flat = Tensor::f_cat(&parts, 0).map_err(&verb)?;
        let mut leaves = Vec::with_capacity(slots.len());
        let mut start = 0;
        for slot in &mut slots {
            let size = slot.size();
            let count = slot.numel() as i64;
            let part = flat.f_narrow(0, start, count).map_err(&verb)?;
            start += count;
            let view = match size[..] {
                [o, i, h, w] => part.f_view([o, h, w, i]).and_then(|t| t.f_permute([0, 3, 1, 2])),
                _ => part.f_view(&size[..]),
            };
            let leaf = view.and_then(|t| t.f_detach()).and_then(|t| t.f_set_requires_grad(true)).map_err(&verb)?;
            leaves.push(leaf.shallow_clone());
            **slot = leaf;
        }
        let first = flat.f_zeros_like().map_err(&verb)?;
        let second = flat.f_zeros_like().map_err(&verb)?;
        Ok(Self { hyper, flat, first, second, leaves, step: 0 })
    }

    /// Number of weights.
    pub(super) fn weights(&self) -> usize {
        self.flat.numel()
    }

    /// Goes back from `loss` and makes one update; gives the gradient's norm before clipping.
    pub(super) fn step(&mut self, loss: &Tensor, lr: f64) -> Result<f64, TokenizerError> {
        let grads = Tensor::f_run_backward(&[loss], &self.leaves, false, false).map_err(torch("going back"))?;
        let _guard = tch::no_grad_guard();
        let parts: Vec<Tensor> = grads.iter().map(in_memory_order).collect::<Result<_, _>>()?;
        let verb = torch("updating weights");
        let mut grad = Tensor::f_cat(&parts, 0).map_err(&verb)?;
        let norm = grad.f_norm().and_then(|t| t.f_double_value(&[])).map_err(&verb)?;
        let h = self.hyper;
        if norm > h.clip_norm {
            let _ = grad.f_mul_scalar_(h.clip_norm / (norm + 1e-6)).map_err(&verb)?;
        }
        self.step += 1;
        let _ = self.first.f_lerp_(&grad, 1.0 - h.beta1).map_err(&verb)?;
        let square = grad.f_square().map_err(&verb)?;
        let _ = self.second.f_lerp_(&square, 1.0 - h.beta2).map_err(&verb)?;
        let correction = (1.0 - h.beta2.powi(self.step)).sqrt();
        let mut width = self.second.f_sqrt().map_err(&verb)?;
        let _ = width.f_div_scalar_(correction).and_then(|mut t| t.f_add_scalar_(h.eps)).map_err(&verb)?;
        let mut update = self.first.f_div(&width).map_err(&verb)?;
        let _ = update.f_mul_scalar_(-lr / (1.0 - h.beta1.powi(self.step))).map_err(&verb)?;
        let _ = self.flat.f_mul_scalar_(1.0 - lr * h.weight_decay).map_err(&verb)?;
        let _ = self.flat.f_add_(&update).map_err(&verb)?;
        Ok(norm)
    }

    /// Ends training: the views stay, but no longer record gradients.
    pub(super) fn freeze(self) -> Result<(), TokenizerError> {
        self.leaves.iter().try_for_each(|leaf| {
            leaf.f_set_requires_grad(false).map(|_| ()).map_err(torch("ending training"))
        })
    }
}

/// A flat fp32 vector of the values in channels-last order, which is how they lie in memory.
fn in_memory_order(tensor: &Tensor) -> Result<Tensor, TokenizerError> {
    let verb = torch("laying weights out for training");
    let rows = match tensor.dim() {
        4 => tensor.f_permute([0, 2, 3, 1]).map_err(&verb)?,
        _ => tensor.shallow_clone(),
    };
    rows.f_reshape([-1]).and_then(|t| t.f_to_kind(Kind::Float)).map_err(verb)
}
