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
    pub(super) fn new<'a>(
        convs: impl Iterator<Item = &'a mut Conv>,
        hyper: Hyper,
    ) -> Result<Self, TokenizerError> {
        let verb = torch("laying weights out for training");
        let mut slots: Vec<&mut Tensor> = convs.flat_map(|conv| [&mut conv.weight, &mut conv.bias]).collect();
        let parts: Vec<Tensor> =
            slots.iter().map(|tensor| in_memory_order(tensor)).collect::<Result<_, _>>()?;
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
            let leaf =
                view.and_then(|t| t.f_detach()).and_then(|t| t.f_set_requires_grad(true)).map_err(&verb)?;
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
        let grads =
            Tensor::f_run_backward(&[loss], &self.leaves, false, false).map_err(torch("going back"))?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::Weights;

    #[test]
    fn three_clipped_updates_equal_the_formula_in_double_precision() {
        let mut weights = Weights::new("test", tch::Device::Cpu);
        weights.insert("c.w", &[2, 3, 1, 1], &[0.5, -0.25, 0.125, 1.0, -1.5, 2.0]).unwrap();
        weights.insert("c.b", &[2], &[0.1, -0.2]).unwrap();
        let mut conv = Conv::take(&mut weights, "c", 3).unwrap();
        let hyper = Hyper { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.1, clip_norm: 1.0 };
        let mut optimizer = AdamW::new(std::iter::once(&mut conv), hyper).unwrap();
        assert_eq!(optimizer.weights(), 8);

        let mut w = [0.5, -0.25, 0.125, 1.0, -1.5, 2.0, 0.1, -0.2f64];
        let (mut m, mut v) = ([0.0; 8], [0.0; 8]);
        for step in 1..=3 {
            let lr = 0.01 * f64::from(step);
            // loss = Σ w³ + Σ b², so the gradient is 3w² and 2b
            let loss =
                conv.weight.pow_tensor_scalar(3).sum(Kind::Float) + conv.bias.square().sum(Kind::Float);
            let norm = optimizer.step(&loss, lr).unwrap();
            let g: Vec<f64> =
                w.iter().enumerate().map(|(i, x)| if i < 6 { 3.0 * x * x } else { 2.0 * x }).collect();
            let length = g.iter().map(|g| g * g).sum::<f64>().sqrt();
            assert!((norm / length - 1.0).abs() < 1e-6);
            for i in 0..8 {
                let g = g[i] * (1.0 / length).min(1.0);
                m[i] = 0.9 * m[i] + 0.1 * g;
                v[i] = 0.999 * v[i] + 0.001 * g * g;
                let (mh, vh) = (m[i] / (1.0 - 0.9f64.powi(step)), v[i] / (1.0 - 0.999f64.powi(step)));
                w[i] = w[i] * (1.0 - lr * 0.1) - lr * mh / (vh.sqrt() + 1e-8);
            }
        }
        let ours = [conv.weight.view([-1]), conv.bias.shallow_clone()];
        let ours = Vec::<f32>::try_from(Tensor::cat(&ours, 0)).unwrap();
        for (ours, expect) in ours.iter().zip(w) {
            assert!((f64::from(*ours) - expect).abs() < 1e-5, "{ours} {expect}");
        }
        optimizer.freeze().unwrap();
        assert!(!conv.weight.requires_grad());
    }
}
