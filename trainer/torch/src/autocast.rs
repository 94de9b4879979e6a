//! Mixed precision for a stretch of code.
#![expect(unsafe_code, reason = "calls the C++ shim")]

use std::marker::PhantomData;

use tch::{Device, Kind};

use crate::error::TorchError;
use crate::ffi::{self, call};

/// While it lives, this thread's matrix products on `device` run in a smaller kind; dropped in reverse order.
///
/// tch's own `autocast` does nothing without CUDA and cannot choose the kind.
#[derive(Debug)]
pub struct Autocast {
    cuda: bool,
    previous_enabled: i32,
    previous_dtype: i32,
    /// The setting belongs to the thread.
    not_send: PhantomData<*const ()>,
}

impl Autocast {
    /// Begins it. `kind` is [`Kind::BFloat16`] or [`Kind::Half`].
    ///
    /// # Errors
    /// `kind` is another one
    pub fn enter(device: Device, kind: Kind) -> Result<Autocast, TorchError> {
        let doing = || format!("turning on {kind:?} autocast for {device:?}");
        // at::ScalarType's numbers.
        let small = match kind {
            Kind::Half => 5,
            Kind::BFloat16 => 15,
            _ => {
                let message = "only BFloat16 and Half are small".to_owned();
                return Err(TorchError::Libtorch { doing: doing(), message });
            }
        };
        let cuda = matches!(device, Device::Cuda(_));
        let (mut enabled, mut dtype) = (0, 0);
        // SAFETY: the out-pointers outlive the call.
        call(doing, |err| unsafe {
            ffi::bt_autocast_enter(cuda.into(), small, &mut enabled, &mut dtype, err)
        })?;
        Ok(Autocast { cuda, previous_enabled: enabled, previous_dtype: dtype, not_send: PhantomData })
    }
}

impl Drop for Autocast {
    fn drop(&mut self) {
        // SAFETY: same thread as `enter` (not Send), with the values it gave.
        unsafe { ffi::bt_autocast_leave(self.cuda.into(), self.previous_enabled, self.previous_dtype) }
    }
}
