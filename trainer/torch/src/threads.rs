//! How many threads one operation may use.
#![expect(unsafe_code, reason = "calls the C++ shim")]

use crate::error::TorchError;
use crate::ffi::{self, call};

/// Lets operations started by this thread use `count` threads (OpenMP); call it first in every rank's thread.
///
/// # Errors
/// `count` is 0
pub fn set_threads(count: u32) -> Result<(), TorchError> {
    let count = i32::try_from(count).unwrap_or(i32::MAX);
    // SAFETY: no pointers but the message.
    call(|| format!("using {count} threads"), |err| unsafe { ffi::bt_set_threads(count, err) }).map(|_| ())
}

/// How many threads operations started by this thread use.
///
/// # Errors
/// libtorch cannot tell
pub fn threads() -> Result<u32, TorchError> {
    // SAFETY: no pointers but the message.
    let count = call(|| "counting threads".to_owned(), |err| unsafe { ffi::bt_threads(err) })?;
    Ok(u32::try_from(count).unwrap_or(1))
}
