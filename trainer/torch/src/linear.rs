//! A linear layer by the fastest matrix product that libtorch has for it.
#![expect(unsafe_code, reason = "calls the C++ shim")]

use tch::Tensor;

use crate::error::TorchError;
use crate::ffi::{self, call, handle};

/// x·Wᵀ + b, with gradients.
///
/// In f32 on a CPU it is oneDNN's product, where libtorch itself takes MKL's, which knows no AVX-512 on AMD's processors
/// (BEiT-base's layers there: 199 to 211 GFLOP/s instead of 148 to 193 forward). Elsewhere it is libtorch's own.
///
/// # Shapes
/// `x` `[…, in]`, `weight` `[out, in]`, `bias` `[out]`; out `[…, out]`
/// # Errors
/// other shapes
pub fn linear(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor, TorchError> {
    let doing = || format!("multiplying {:?} by a weight of {:?}", x.size(), weight.size());
    // SAFETY: the three handles are live and outlive the call.
    let out = call(doing, |err| unsafe { ffi::bt_linear(handle(x), handle(weight), handle(bias), err) })?;
    // SAFETY: on success the shim hands out a new at::Tensor; tch's Tensor frees it.
    Ok(unsafe { Tensor::from_ptr(out) })
}
