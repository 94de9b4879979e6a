//! Whole lists of tensors at once: norm, scale, zero, unscale. No call here waits for a device.
#![expect(unsafe_code, reason = "calls the C++ shim")]

use tch::{Kind, Tensor};

use crate::error::TorchError;
use crate::ffi::{self, call, handle, handles};

/// The Euclidean norm over all elements of all tensors, as a scalar tensor on their device.
///
/// # Errors
/// the list is empty, or tensors are undefined or on several devices
pub fn foreach_norm(tensors: &[Tensor]) -> Result<Tensor, TorchError> {
    let list = handles(tensors);
    // SAFETY: `list` has live entries and outlives the call.
    let norm = call(
        || format!("taking the norm of {} tensors", list.len()),
        |err| unsafe { ffi::bt_foreach_norm(list.as_ptr(), list.len(), err) },
    )?;
    // SAFETY: on success the shim hands out a new at::Tensor; tch's Tensor frees it.
    Ok(unsafe { Tensor::from_ptr(norm) })
}

/// Multiplies every tensor by the scalar tensor `factor`, in place.
///
/// # Errors
/// tensors are undefined, or `factor` is no scalar on their device
pub fn foreach_scale(tensors: &[Tensor], factor: &Tensor) -> Result<(), TorchError> {
    let list = handles(tensors);
    // SAFETY: `list` and `factor` are live and outlive the call.
    call(
        || format!("scaling {} tensors", list.len()),
        |err| unsafe { ffi::bt_foreach_scale(list.as_ptr(), list.len(), handle(factor), err) },
    )
    .map(|_| ())
}

/// Zeroes every tensor, in place, so it is right for gradients that are bucket views.
///
/// # Errors
/// a tensor is undefined
pub fn foreach_zero(tensors: &[Tensor]) -> Result<(), TorchError> {
    let list = handles(tensors);
    // SAFETY: `list` has live entries and outlives the call.
    call(
        || format!("zeroing {} tensors", list.len()),
        |err| unsafe { ffi::bt_foreach_zero(list.as_ptr(), list.len(), err) },
    )
    .map(|_| ())
}

/// Scales the gradients so that their common norm is at most `max_norm`; returns the norm before.
///
/// # Source
/// `torch.nn.utils.clip_grad_norm_`: factor = min(1, `max_norm` / (norm + 1e-6))
/// # Errors
/// as [`foreach_norm`]
pub fn clip_to_norm(gradients: &[Tensor], max_norm: f64) -> Result<Tensor, TorchError> {
    let norm = foreach_norm(gradients)?;
    let factor = norm
        .f_add_scalar(1e-6)
        .and_then(|norm| norm.f_reciprocal())
        .and_then(|inverse| inverse.f_mul_scalar(max_norm))
        .and_then(|factor| factor.f_clamp_max(1.0))
        .map_err(TorchError::tch("clipping gradients"))?;
    foreach_scale(gradients, &factor)?;
    Ok(norm)
}

/// Multiplies the gradients by `inverse_scale`, in place; sets `found_inf` to 1 when one of them is not finite and
/// leaves it alone otherwise.
///
/// # Shapes
/// `found_inf`, `inverse_scale`: one f32 each, on the gradients' device
/// # Errors
/// shapes, kinds or devices differ from that
pub fn amp_unscale(
    gradients: &[Tensor],
    found_inf: &Tensor,
    inverse_scale: &Tensor,
) -> Result<(), TorchError> {
    let list = handles(gradients);
    debug_assert_eq!(found_inf.kind(), Kind::Float);
    // SAFETY: all handles are live and outlive the call.
    call(
        || format!("unscaling {} gradients", list.len()),
        |err| unsafe {
            ffi::bt_amp_unscale(list.as_ptr(), list.len(), handle(found_inf), handle(inverse_scale), err)
        },
    )
    .map(|_| ())
}
