//! Gradients averaged over ranks while backward is still running.
#![expect(unsafe_code, reason = "calls the C++ shim")]

use std::time::Duration;

use tch::Tensor;

use crate::error::TorchError;
use crate::ffi::{self, call, handles, owned, text};
use crate::group::ProcessGroup;

/// How the gradients are cut into buckets.
#[derive(Clone, Copy, Debug)]
pub struct ReducerOptions {
    /// Size of the bucket that is sent first; small, so that sending begins early.
    pub first_bucket_bytes: u64,
    /// Size of the others.
    pub bucket_bytes: u64,
    /// Some parameters may get no gradient in some step; costs a walk of the graph.
    pub find_unused: bool,
    /// `.grad` becomes a view into its bucket: no copies. Then zero it in place with [`crate::foreach_zero`] and never
    /// replace or undefine it.
    pub gradient_as_bucket_view: bool,
}

impl Default for ReducerOptions {
    /// PyTorch's sizes (1 MiB, then 25 MiB), bucket views, every parameter used.
    fn default() -> Self {
        ReducerOptions {
            first_bucket_bytes: 1 << 20,
            bucket_bytes: 25 << 20,
            find_unused: false,
            gradient_as_bucket_view: true,
        }
    }
}

owned! {
    /// PyTorch's DDP reducer (`c10d::Reducer`): hooks on the parameters all-reduce each bucket when it is full.
    ///
    /// Every step: [`Reducer::before_forward`], forward, [`Reducer::before_backward`], backward. When backward returns,
    /// every `.grad` holds the mean over ranks. A micro-step without these two calls only accumulates locally.
    Reducer, ffi::bt_reducer_free
}

impl Reducer {
    /// Checks over all ranks that shapes agree, then hooks the parameters. Values are not compared or copied: broadcast
    /// them from rank 0 first.
    ///
    /// # Errors
    /// ranks differ in number, shape or kind of parameters, or one is gone
    pub fn new(
        group: &ProcessGroup,
        parameters: &[(String, Tensor)],
        options: ReducerOptions,
    ) -> Result<Reducer, TorchError> {
        let doing = || format!("preparing to average {} gradients", parameters.len());
        let names: Vec<_> = parameters.iter().map(|(name, _)| text(doing, name)).collect::<Result<_, _>>()?;
        let name_pointers: Vec<_> = names.iter().map(|name| name.as_ptr()).collect();
        let tensors: Vec<_> = parameters.iter().map(|(_, tensor)| ffi::handle(tensor)).collect();
        // SAFETY: both lists have `parameters.len()` live entries and outlive the call; the reducer keeps its own
        // references to the tensors and to the group.
        let reducer = call(doing, |err| unsafe {
            ffi::bt_reducer_new(
                group.0,
                tensors.as_ptr(),
                name_pointers.as_ptr(),
                tensors.len(),
                bytes(options.first_bucket_bytes),
                bytes(options.bucket_bytes),
                options.find_unused.into(),
                options.gradient_as_bucket_view.into(),
                err,
            )
        })?;
        Ok(Reducer(reducer))
    }

    /// Call before forward. After the first step it also orders the buckets by when their gradients came, which all
    /// ranks do together; `true` says that this happened.
    ///
    /// # Errors
    /// the last backward left a parameter without gradient (see `find_unused`), or a rank is gone
    pub fn before_forward(&self) -> Result<bool, TorchError> {
        let doing = || "preparing the gradient buckets".to_owned();
        // SAFETY: the handle is live.
        call(doing, |err| unsafe { ffi::bt_reducer_before_forward(self.0, err) }).map(|rebuilt| rebuilt == 1)
    }

    /// Call between forward and backward. `outputs` matter only with `find_unused`: what backward will start from.
    ///
    /// # Errors
    /// the last backward is not finished
    pub fn before_backward(&self, outputs: &[Tensor]) -> Result<(), TorchError> {
        let doing = || "arming the gradient buckets".to_owned();
        let outputs = handles(outputs);
        // SAFETY: the handle is live, and `outputs` outlives the call.
        call(doing, |err| unsafe {
            ffi::bt_reducer_before_backward(self.0, outputs.as_ptr(), outputs.len(), err)
        })
        .map(|_| ())
    }

    /// How many buckets there are now.
    ///
    /// # Errors
    /// libtorch cannot tell
    pub fn buckets(&self) -> Result<usize, TorchError> {
        let doing = || "counting gradient buckets".to_owned();
        // SAFETY: the handle is live.
        let count = call(doing, |err| unsafe { ffi::bt_reducer_buckets(self.0, err) })?;
        Ok(usize::try_from(count).unwrap_or(0))
    }

    /// How long the newest backward stood waiting at its end: from this rank's last gradient until the last average was
    /// there. What was sent before that, while gradients were still being computed, is not in it. On a GPU, call this
    /// only when the step's numbers are there, for it waits for them.
    ///
    /// `None` before the first backward, and where backward took no average.
    ///
    /// # Errors
    /// libtorch cannot tell
    pub fn exposed(&self) -> Result<Option<Duration>, TorchError> {
        let doing = || "asking how long gradients were waited for".to_owned();
        // SAFETY: the handle is live.
        let ns = call(doing, |err| unsafe { ffi::bt_reducer_exposed_ns(self.0, err) })?;
        Ok(u64::try_from(ns).ok().map(Duration::from_nanos))
    }
}

fn bytes(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}
