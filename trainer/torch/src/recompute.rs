//! Less memory for more work: what happens between some inputs and one output is computed again in backward.
#![expect(unsafe_code, reason = "calls the C++ shim, and is called by it")]

use std::ffi::{CString, c_char, c_void};
use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::null_mut;

use tch::Tensor;
use torch_sys::C_tensor;

use crate::error::TorchError;
use crate::ffi::{self, Message, call, handles};

/// What is run once in forward, without a graph, and once in backward, with one.
type Body = Box<dyn Fn(&[Tensor]) -> Result<Tensor, String>>;

/// `body(inputs)`, but backward keeps only `inputs` and runs `body` again, under the autocast that is in force now.
///
/// Gradients reach `inputs` and whatever parameters `body` uses. `body` must give the same output each time: draws and
/// the like are made outside. On a GPU it may run, and be dropped, on libtorch's thread of that device while the caller
/// waits in backward.
///
/// # Errors
/// what `body` says, here or from backward
/// # Source
/// `torch.utils.checkpoint` with `use_reentrant=True`; Chen et al., arXiv:1604.06174
pub fn recomputed<E: Display>(
    inputs: &[Tensor],
    body: impl Fn(&[Tensor]) -> Result<Tensor, E> + 'static,
) -> Result<Tensor, TorchError> {
    let body: Body = Box::new(move |inputs| body(inputs).map_err(|error| error.to_string()));
    let context = Box::into_raw(Box::new(body)).cast::<c_void>();
    let list = handles(inputs);
    // SAFETY: `list` outlives the call; the shim owns `context` from here on, whatever happens, and gives it to `run`
    // and, once, to `release` only.
    let output = call(
        || "running a stretch that backward will run again".to_owned(),
        |err| unsafe { ffi::bt_recomputed(list.as_ptr(), list.len(), run, release, context, err) },
    )?;
    // SAFETY: on success the shim hands out a new at::Tensor; tch's Tensor frees it.
    Ok(unsafe { Tensor::from_ptr(output) })
}

/// Called by the shim: runs the body; gives a new tensor, or null and a message that the shim frees.
unsafe extern "C" fn run(
    context: *mut c_void,
    inputs: *const *mut C_tensor,
    count: usize,
    err: Message,
) -> *mut C_tensor {
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: `context` is the box that `recomputed` made, and is alive until `release`.
        let body = unsafe { &*context.cast::<Body>() };
        // SAFETY: the shim passes `count` live tensors.
        let inputs: Vec<Tensor> = unsafe { std::slice::from_raw_parts(inputs, count) }
            .iter()
            // SAFETY: as above; this makes handles of our own.
            .map(|input| unsafe { Tensor::clone_from_ptr(*input) })
            .collect();
        body(&inputs)
    }));
    let message = match outcome {
        Ok(Ok(output)) => return into_raw(output),
        Ok(Err(message)) => message,
        Err(_) => "panicked".to_owned(),
    };
    let message = CString::new(message.replace('\0', " ")).unwrap_or_default();
    // SAFETY: `err` is the shim's own out-pointer; the copy is made by malloc, as the shim frees it by `free`.
    unsafe { *err = copied(&message) };
    null_mut()
}

unsafe extern "C" fn release(context: *mut c_void) {
    // SAFETY: the shim calls this once, when nothing will call `run` with it again.
    let body = unsafe { Box::from_raw(context.cast::<Body>()) };
    let _ = catch_unwind(AssertUnwindSafe(|| drop(body)));
}

/// A new handle of the same tensor that C++ owns.
fn into_raw(tensor: Tensor) -> *mut C_tensor {
    // SAFETY: reads a live tensor; the new handle belongs to the caller.
    unsafe { torch_sys::at_shallow_clone(tensor.as_ptr().cast_mut()) }
}

fn copied(text: &CString) -> *mut c_char {
    // SAFETY: `text` ends in NUL and is alive; the shim copies it.
    unsafe { ffi::bt_string_copy(text.as_ptr()) }
}
