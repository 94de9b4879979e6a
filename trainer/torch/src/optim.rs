//! One AdamW update of one group of parameters.
#![expect(unsafe_code, reason = "calls the C++ shim")]

use tch::Tensor;

use crate::error::TorchError;
use crate::ffi::{self, call, handle, handles};

/// AdamW's numbers for one group in one update.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Learning rate of this update.
    pub lr: f64,
    /// Decay of the mean of gradients.
    pub beta1: f64,
    /// Decay of the mean of squared gradients.
    pub beta2: f64,
    /// Decoupled: parameters are first multiplied by 1 − lr · this.
    pub weight_decay: f64,
    /// Added outside the bias-corrected square root.
    pub eps: f64,
}

/// Steps every parameter of a group in place, in one kernel.
///
/// # Shapes
/// the four lists are parallel; `step` is one f32 scalar that already counts this update (1 at the first);
/// `found_inf`: one f32; when it is 1 nothing changes
/// # Errors
/// lists differ in length, shapes or devices
/// # Source
/// `torch.optim.AdamW(fused=True)`: m ← m + (1−β₁)(g−m); v ← β₂v + (1−β₂)g²; p ← p(1−lr·wd) − lr/(1−β₁ᵗ) · m / (√v/√(1−β₂ᵗ) + ε)
pub fn fused_adamw(
    parameters: &[Tensor],
    gradients: &[Tensor],
    first_moments: &[Tensor],
    second_moments: &[Tensor],
    step: &Tensor,
    numbers: AdamW,
    found_inf: Option<&Tensor>,
) -> Result<(), TorchError> {
    let doing = || format!("stepping {} parameters", parameters.len());
    let lists = [
        ("the list of gradients", gradients.len()),
        ("the list of first moments", first_moments.len()),
        ("the list of second moments", second_moments.len()),
    ];
    for (what, found) in lists {
        if found != parameters.len() {
            return Err(TorchError::Lengths { doing: doing(), what, expected: parameters.len(), found });
        }
    }
    if parameters.is_empty() {
        return Ok(());
    }
    let (p, g) = (handles(parameters), handles(gradients));
    let (m, v) = (handles(first_moments), handles(second_moments));
    let found_inf = found_inf.map_or(std::ptr::null(), Tensor::as_ptr);
    // SAFETY: the four lists have equal length (checked above), their entries and the scalars are live and outlive the
    // call, and `found_inf` may be null.
    call(doing, |err| unsafe {
        ffi::bt_fused_adamw(
            p.as_ptr(),
            g.as_ptr(),
            m.as_ptr(),
            v.as_ptr(),
            p.len(),
            handle(step),
            numbers.lr,
            numbers.beta1,
            numbers.beta2,
            numbers.weight_decay,
            numbers.eps,
            found_inf,
            err,
        )
    })
    .map(|_| ())
}
