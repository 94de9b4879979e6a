//! Declarations of `csrc/beit_torch.cpp`, and the one way to call them.
#![expect(unsafe_code, reason = "declares the C++ shim and frees the messages it hands out")]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr::null_mut;

use tch::Tensor;
use torch_sys::C_tensor;

use crate::error::{TorchError, first_account};

/// Where a shim function puts its message when it fails.
pub(crate) type Message = *mut *mut c_char;

unsafe extern "C" {
    fn bt_string_free(text: *mut c_char);
    pub(crate) fn bt_string_copy(text: *const c_char) -> *mut c_char;

    pub(crate) fn bt_store_tcp(
        host: *const c_char,
        port: u16,
        is_server: c_int,
        world_size: i64,
        wait_for_workers: c_int,
        timeout_ms: i64,
        err: Message,
    ) -> *mut c_void;
    pub(crate) fn bt_store_port(store: *mut c_void, err: Message) -> c_int;
    pub(crate) fn bt_store_prefix(store: *mut c_void, prefix: *const c_char, err: Message) -> *mut c_void;
    pub(crate) fn bt_store_set(
        store: *mut c_void,
        key: *const c_char,
        value: *const u8,
        length: usize,
        err: Message,
    ) -> c_int;
    pub(crate) fn bt_store_get(
        store: *mut c_void,
        key: *const c_char,
        length: *mut usize,
        err: Message,
    ) -> *mut u8;
    pub(crate) fn bt_bytes_free(bytes: *mut u8);
    pub(crate) fn bt_store_add(store: *mut c_void, key: *const c_char, amount: i64, err: Message) -> i64;
    pub(crate) fn bt_store_has(store: *mut c_void, key: *const c_char, err: Message) -> c_int;
    pub(crate) fn bt_store_free(store: *mut c_void);

    pub(crate) fn bt_group_gloo(
        store: *mut c_void,
        rank: c_int,
        size: c_int,
        timeout_ms: i64,
        host: *const c_char,
        threads: c_int,
        err: Message,
    ) -> *mut c_void;
    pub(crate) fn bt_group_nccl(
        store: *mut c_void,
        rank: c_int,
        size: c_int,
        timeout_ms: i64,
        plugin: *const c_char,
        device: c_int,
        err: Message,
    ) -> *mut c_void;
    pub(crate) fn bt_group_free(group: *mut c_void);
    pub(crate) fn bt_all_reduce(
        group: *mut c_void,
        tensor: *mut C_tensor,
        op: c_int,
        err: Message,
    ) -> *mut c_void;
    pub(crate) fn bt_broadcast(
        group: *mut c_void,
        tensor: *mut C_tensor,
        root: c_int,
        err: Message,
    ) -> *mut c_void;
    pub(crate) fn bt_barrier(group: *mut c_void, err: Message) -> *mut c_void;
    pub(crate) fn bt_monitored_barrier(group: *mut c_void, timeout_ms: i64, err: Message) -> c_int;
    pub(crate) fn bt_work_wait(work: *mut c_void, timeout_ms: i64, err: Message) -> c_int;
    pub(crate) fn bt_work_is_done(work: *mut c_void, err: Message) -> c_int;
    pub(crate) fn bt_work_free(work: *mut c_void);

    pub(crate) fn bt_reducer_new(
        group: *mut c_void,
        parameters: *const *mut C_tensor,
        names: *const *const c_char,
        count: usize,
        first_bucket_bytes: i64,
        bucket_bytes: i64,
        find_unused: c_int,
        gradient_as_bucket_view: c_int,
        err: Message,
    ) -> *mut c_void;
    pub(crate) fn bt_reducer_before_forward(reducer: *mut c_void, err: Message) -> c_int;
    pub(crate) fn bt_reducer_before_backward(
        reducer: *mut c_void,
        outputs: *const *mut C_tensor,
        count: usize,
        err: Message,
    ) -> c_int;
    pub(crate) fn bt_reducer_buckets(reducer: *mut c_void, err: Message) -> i64;
    pub(crate) fn bt_reducer_exposed_ns(reducer: *mut c_void, err: Message) -> i64;
    pub(crate) fn bt_reducer_free(reducer: *mut c_void);

    pub(crate) fn bt_fused_adamw(
        parameters: *const *mut C_tensor,
        gradients: *const *mut C_tensor,
        first_moments: *const *mut C_tensor,
        second_moments: *const *mut C_tensor,
        count: usize,
        step: *mut C_tensor,
        lr: f64,
        beta1: f64,
        beta2: f64,
        weight_decay: f64,
        eps: f64,
        found_inf: *const C_tensor,
        err: Message,
    ) -> c_int;
    pub(crate) fn bt_foreach_norm(tensors: *const *mut C_tensor, count: usize, err: Message)
    -> *mut C_tensor;
    pub(crate) fn bt_foreach_scale(
        tensors: *const *mut C_tensor,
        count: usize,
        factor: *mut C_tensor,
        err: Message,
    ) -> c_int;
    pub(crate) fn bt_foreach_zero(tensors: *const *mut C_tensor, count: usize, err: Message) -> c_int;
    pub(crate) fn bt_amp_unscale(
        tensors: *const *mut C_tensor,
        count: usize,
        found_inf: *mut C_tensor,
        inverse_scale: *mut C_tensor,
        err: Message,
    ) -> c_int;

    pub(crate) fn bt_linear(
        x: *mut C_tensor,
        weight: *mut C_tensor,
        bias: *mut C_tensor,
        err: Message,
    ) -> *mut C_tensor;
    pub(crate) fn bt_recomputed(
        inputs: *const *mut C_tensor,
        count: usize,
        run: unsafe extern "C" fn(*mut c_void, *const *mut C_tensor, usize, Message) -> *mut C_tensor,
        release: unsafe extern "C" fn(*mut c_void),
        context: *mut c_void,
        err: Message,
    ) -> *mut C_tensor;

    pub(crate) fn bt_autocast_enter(
        cuda: c_int,
        dtype: c_int,
        previous_enabled: *mut c_int,
        previous_dtype: *mut c_int,
        err: Message,
    ) -> c_int;
    pub(crate) fn bt_autocast_leave(cuda: c_int, previous_enabled: c_int, previous_dtype: c_int);
    pub(crate) fn bt_set_threads(threads: c_int, err: Message) -> c_int;
    pub(crate) fn bt_threads(err: Message) -> c_int;
    pub(crate) fn bt_load_cuda(err: Message) -> c_int;
    pub(crate) fn bt_cuda_devices(err: Message) -> i64;
}

/// Makes one call of the shim; `doing` is asked for only when it failed.
pub(crate) fn call<T>(
    doing: impl FnOnce() -> String,
    function: impl FnOnce(Message) -> T,
) -> Result<T, TorchError> {
    let mut message: *mut c_char = null_mut();
    let result = function(&mut message);
    if message.is_null() {
        return Ok(result);
    }
    // SAFETY: a shim function that sets the message makes it with strdup, so it ends in NUL and is ours to free, once.
    let text = unsafe { CStr::from_ptr(message) }.to_string_lossy().into_owned();
    // SAFETY: as above; nothing refers to it any more, `text` is a copy.
    unsafe { bt_string_free(message) };
    Err(TorchError::Libtorch { doing: doing(), message: first_account(&text) })
}

/// A text as C wants it.
pub(crate) fn text(doing: impl FnOnce() -> String, value: &str) -> Result<CString, TorchError> {
    CString::new(value).map_err(|_| TorchError::Nul { doing: doing(), text: value.to_owned() })
}

/// The `at::Tensor*` of each tensor; valid while the tensors are borrowed.
///
/// The shim copies the handles (it never reads or writes through another thread's `Tensor`), so `*mut` here means
/// only that tensors have interior mutability, as tch's own `shallow_clone` and `&self` in-place calls do.
pub(crate) fn handles(tensors: &[Tensor]) -> Vec<*mut C_tensor> {
    tensors.iter().map(handle).collect()
}

/// See [`handles`].
pub(crate) fn handle(tensor: &Tensor) -> *mut C_tensor {
    tensor.as_ptr().cast_mut()
}

/// A timeout as the shim wants it: whole milliseconds, at least one.
pub(crate) fn millis(timeout: std::time::Duration) -> i64 {
    i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX / 2).max(1)
}

/// Declares an owning handle over something the shim made.
macro_rules! owned {
    ($(#[$doc:meta])* $name:ident, $free:path) => {
        $(#[$doc])*
        pub struct $name(pub(crate) *mut std::ffi::c_void);

        // SAFETY: the object behind the handle is a c10d object that any one thread may use at a time; the handle is
        // not Clone and not Sync, so that is what happens.
        unsafe impl Send for $name {}

        impl Drop for $name {
            fn drop(&mut self) {
                // SAFETY: made by the shim, freed only here, and the shim swallows what a destructor throws.
                unsafe { $free(self.0) }
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(stringify!($name))
            }
        }
    };
}
pub(crate) use owned;
