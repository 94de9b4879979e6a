//! Whether there are GPUs, asked without panicking where there are none.
//!
//! A binary linked here does not load libtorch's CUDA half, and libtorch remembers its absence at the first question.
//! So call [`load`] first thing in `main` when GPUs are wanted, and ask [`devices`], never `tch::Cuda`.
#![expect(unsafe_code, reason = "calls the C++ shim")]

use std::sync::OnceLock;

use crate::error::TorchError;
use crate::ffi::{self, call};

static LOADED: OnceLock<Result<(), String>> = OnceLock::new();

/// Opens `libtorch_cuda.so` for the whole process; later calls repeat the first answer.
///
/// # Errors
/// [`TorchError::NoCuda`]: this libtorch has no CUDA half, or its libraries are missing
pub fn load() -> Result<(), TorchError> {
    let loaded = LOADED.get_or_init(|| {
        // SAFETY: opening a library runs its initialisers; it lies beside the libtorch that already runs.
        match call(String::new, |err| unsafe { ffi::bt_load_cuda(err) }) {
            Ok(_) => Ok(()),
            Err(TorchError::Libtorch { message, .. }) => Err(message),
            Err(other) => Err(other.to_string()),
        }
    });
    loaded.clone().map_err(|message| TorchError::NoCuda { message })
}

/// How many GPUs libtorch can use; 0 where [`load`] was not called or failed, or where there is no driver.
///
/// # Errors
/// the driver reports an error
pub fn devices() -> Result<u32, TorchError> {
    if !matches!(LOADED.get(), Some(Ok(()))) {
        return Ok(0);
    }
    // SAFETY: no pointers but the message.
    let count = call(|| "counting GPUs".to_owned(), |err| unsafe { ffi::bt_cuda_devices(err) })?;
    Ok(u32::try_from(count).unwrap_or(0))
}
