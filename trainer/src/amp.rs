//! Mixed precision: in which kind matrix products run, and how small gradients are kept from vanishing in fp16.

use beit_torch::{Autocast, amp_unscale};
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use crate::error::{TrainError, torch};

/// The recipe's `amp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amp {
    /// Everything in f32.
    Off,
    /// Matrix products in bfloat16: the range of f32, so losses are not scaled.
    Bf16,
    /// Matrix products in half precision with a scaled loss, as the reference trains on GPUs.
    Fp16,
}

impl Amp {
    /// What a recipe may say.
    pub const NAMES: [&'static str; 3] = ["off", "bf16", "fp16"];

    /// By its name in a recipe.
    pub fn named(name: &str) -> Option<Amp> {
        match name {
            "off" => Some(Amp::Off),
            "bf16" => Some(Amp::Bf16),
            "fp16" => Some(Amp::Fp16),
            _ => None,
        }
    }

    /// While the guard lives, this thread's matrix products on `device` run in the smaller kind.
    ///
    /// # Errors
    /// libtorch's
    pub fn enter(self, device: Device) -> Result<Option<Autocast>, TrainError> {
        let kind = match self {
            Amp::Off => return Ok(None),
            Amp::Bf16 => Kind::BFloat16,
            Amp::Fp16 => Kind::Half,
        };
        Autocast::enter(device, kind).map(Some).map_err(torch("turning on mixed precision"))
    }
}

/// What a checkpoint keeps of a [`LossScaler`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScalerState {
    /// What the loss is multiplied by.
    pub scale: f64,
    /// Good steps since it last changed.
    pub growth_tracker: u64,
}

/// Keeps fp16 gradients in range: the loss is scaled up, gradients are scaled back, and a step whose gradients
/// overflowed is skipped and halves the scale.
///
/// # Source
/// `torch.cuda.amp.GradScaler` with the reference's defaults (specification 5.5): 65536, × 2 after 2000 good steps, × 0.5
#[derive(Debug)]
pub struct LossScaler {
    state: ScalerState,
    found_inf: Tensor,     // one f32
    inverse_scale: Tensor, // one f32
}

impl LossScaler {
    const START: f64 = 65536.0;
    const GROWTH: f64 = 2.0;
    const BACKOFF: f64 = 0.5;
    const GROWTH_INTERVAL: u64 = 2000;

    /// A fresh one, or one that goes on as `saved`.
    ///
    /// # Errors
    /// libtorch's
    pub fn new(saved: Option<ScalerState>, device: Device) -> Result<LossScaler, TrainError> {
        let state = saved.unwrap_or(ScalerState { scale: Self::START, growth_tracker: 0 });
        let one = || Tensor::f_zeros([1], (Kind::Float, device)).map_err(torch("preparing the loss scaler"));
        Ok(LossScaler { state, found_inf: one()?, inverse_scale: one()? })
    }

    /// What to multiply the loss by.
    pub fn scale(&self) -> f64 {
        self.state.scale
    }

    /// For a checkpoint.
    pub fn state(&self) -> ScalerState {
        self.state
    }

    /// Scales gradients back, in place. Those that overflowed stay infinite or NaN, and so does their norm.
    ///
    /// # Errors
    /// libtorch's
    pub fn unscale(&mut self, gradients: &[Tensor]) -> Result<(), TrainError> {
        let doing = "unscaling gradients";
        let _ = self.found_inf.f_zero_().map_err(torch(doing))?;
        let _ = self.inverse_scale.f_fill_(1.0 / self.state.scale).map_err(torch(doing))?;
        amp_unscale(gradients, &self.found_inf, &self.inverse_scale).map_err(torch(doing))
    }

    /// Learns from a step: whether its gradients had overflowed.
    pub fn update(&mut self, overflowed: bool) {
        let ScalerState { scale, growth_tracker } = &mut self.state;
        if overflowed {
            *scale *= Self::BACKOFF;
            *growth_tracker = 0;
            return;
        }
        *growth_tracker += 1;
        if *growth_tracker == Self::GROWTH_INTERVAL {
            *scale *= Self::GROWTH;
            *growth_tracker = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scale_doubles_after_2000_good_steps_and_halves_at_an_overflow() {
        let mut scaler = LossScaler::new(None, Device::Cpu).unwrap();
        (0..1999).for_each(|_| scaler.update(false));
        assert_eq!(scaler.scale(), 65536.0);
        scaler.update(false);
        assert_eq!(scaler.state(), ScalerState { scale: 131072.0, growth_tracker: 0 });
        (0..1999).for_each(|_| scaler.update(false));
        scaler.update(true); // so the count begins anew
        (0..1999).for_each(|_| scaler.update(false));
        assert_eq!(scaler.scale(), 65536.0);
    }

    #[test]
    fn a_scaler_goes_on_where_its_checkpoint_stood() {
        let mut scaler = LossScaler::new(None, Device::Cpu).unwrap();
        (0..1500).for_each(|_| scaler.update(false));
        let mut resumed = LossScaler::new(Some(scaler.state()), Device::Cpu).unwrap();
        (0..500).for_each(|_| resumed.update(false));
        assert_eq!(resumed.scale(), 131072.0);
    }

    #[test]
    fn unscaling_divides_by_the_scale_and_keeps_an_overflow_visible() {
        let mut scaler = LossScaler::new(None, Device::Cpu).unwrap();
        let fine = Tensor::from_slice(&[65536f32, -32768.0]);
        let over = Tensor::from_slice(&[f32::INFINITY]);
        scaler.unscale(&[fine.shallow_clone(), over.shallow_clone()]).unwrap();
        assert_eq!(Vec::<f32>::try_from(&fine).unwrap(), [1.0, -0.5]);
        assert!(!over.double_value(&[0]).is_finite());
    }

    #[test]
    fn matrix_products_shrink_only_inside_the_guard() {
        let a = Tensor::ones([2, 2], (Kind::Float, Device::Cpu));
        for (amp, kind) in [(Amp::Off, Kind::Float), (Amp::Bf16, Kind::BFloat16), (Amp::Fp16, Kind::Half)] {
            let inside = {
                let _guard = amp.enter(Device::Cpu).unwrap();
                a.matmul(&a).kind()
            };
            assert_eq!((inside, a.matmul(&a).kind()), (kind, Kind::Float));
        }
    }
}
