//! How much arithmetic the model is.

use super::config::ModelConfig;

impl ModelConfig {
    /// Floating-point operations of a forward pass over `samples` images of which `hidden` patches are guessed in all.
    ///
    /// # Units
    /// a multiply-add counts as 2; only matrix products count (patch embedding, attention with its T × T scores, MLP, head of
    /// the hidden patches), as for `torch.utils.flop_counter`, which `tests/parity/flops.py` holds beside it
    pub fn forward_flops(&self, samples: u64, hidden: u64) -> f64 {
        let [width, mlp, vocab, depth] =
            [self.width, self.mlp_width(), self.vocab, self.depth].map(f64::from);
        let positions = f64::from(self.patches()) + 1.0;
        let projections = positions * 4.0 * width * width; // qkv and proj
        let attention = 2.0 * positions * positions * width; // q·kᵀ and the mix of v
        let block = projections + attention + 2.0 * positions * width * mlp;
        let head = width * vocab;
        self.embedding_flops(samples) + 2.0 * (samples as f64 * depth * block + hidden as f64 * head)
    }

    /// Those of forward and backward together: backward is two forwards, without the gradient of the pixels, which nobody needs.
    /// What activation checkpointing computes again is no part of it, for the model does not need that either.
    pub fn step_flops(&self, samples: u64, hidden: u64) -> f64 {
        3.0 * self.forward_flops(samples, hidden) - self.embedding_flops(samples)
    }

    fn embedding_flops(&self, samples: u64) -> f64 {
        let [side, patches, width] = [self.patch_px, self.patches(), self.width].map(f64::from);
        2.0 * samples as f64 * patches * 3.0 * side * side * width
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_and_large_are_as_large_as_pytorch_counts() {
        // torch.utils.flop_counter on tests/parity/beit.py, batch 2, 75 hidden patches in each.
        for (model, forward, step) in [
            (ModelConfig::base(), 72_139_677_696.0, 215_956_611_072.0),
            (ModelConfig::large(), 248_731_336_704.0, 745_577_447_424.0),
        ] {
            assert_eq!((model.forward_flops(2, 150), model.step_flops(2, 150)), (forward, step));
        }
    }

    #[test]
    fn samples_and_hidden_patches_add_up() {
        let base = ModelConfig::base();
        assert_eq!(base.forward_flops(5, 300), base.forward_flops(2, 100) + base.forward_flops(3, 200));
        assert_eq!(base.forward_flops(0, 1), 2.0 * 768.0 * 8192.0);
    }
}
