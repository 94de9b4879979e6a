//! Ranks that sum, copy and wait together.
#![expect(unsafe_code, reason = "calls the C++ shim")]

use std::time::Duration;

use tch::Tensor;

use crate::error::TorchError;
use crate::ffi::{self, call, handle, millis, owned, text};
use crate::store::Store;

/// Who carries the bytes.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Backend {
    /// Gloo over TCP, for tensors on the CPU.
    Gloo {
        /// Name or address of this machine to bind to and to tell the others, or `%` and the name of an interface;
        /// empty = what the host name resolves to, which containers often get wrong.
        host: String,
        /// Threads that move bytes.
        threads: u32,
    },
    /// NCCL through the plug-in; compiled, never yet run on a GPU.
    Nccl {
        /// Path of the plug-in, `libbeit_nccl.so`.
        plugin: String,
        /// The CUDA device of this rank.
        device: u32,
    },
}

impl Backend {
    /// Gloo on the loopback address: all ranks on this machine.
    pub fn local() -> Backend {
        Backend::Gloo { host: "127.0.0.1".to_owned(), threads: 2 }
    }
}

/// How [`ProcessGroup::all_reduce`] combines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Op {
    /// Sum over ranks.
    Sum = 0,
    /// Smallest over ranks.
    Min = 3,
    /// Largest over ranks.
    Max = 4,
}

owned! {
    /// One rank's membership. Each rank (thread or process) makes its own, with its own [`Store`] client.
    ///
    /// Dropping it closes the connections, so ranks that still wait for this one get an error at once, not a timeout.
    ProcessGroup, ffi::bt_group_free
}

owned! {
    /// An operation under way. It holds its tensors; dropping it does not cancel it.
    Work, ffi::bt_work_free
}

impl ProcessGroup {
    /// Joins rank `rank` of `size`; returns when all have joined.
    ///
    /// # Errors
    /// a rank is missing after `timeout`, the address cannot be bound, or the plug-in does not load
    pub fn join(
        store: &Store,
        backend: &Backend,
        rank: u32,
        size: u32,
        timeout: Duration,
    ) -> Result<ProcessGroup, TorchError> {
        let doing = || format!("joining as rank {rank} of {size} with {backend:?}");
        let (rank_c, size_c) = (signed(rank), signed(size));
        let ms = millis(timeout);
        let group = match backend {
            Backend::Gloo { host, threads } => {
                let host = text(doing, host)?;
                // SAFETY: the store is live, `host` outlives the call.
                call(doing, |err| unsafe {
                    let threads = signed((*threads).max(1));
                    ffi::bt_group_gloo(store.0, rank_c, size_c, ms, host.as_ptr(), threads, err)
                })?
            }
            Backend::Nccl { plugin, device } => {
                let plugin = text(doing, plugin)?;
                // SAFETY: the store is live, `plugin` outlives the call. Opening a library runs its initialisers: the
                // path comes from the operator's own settings.
                call(doing, |err| unsafe {
                    ffi::bt_group_nccl(store.0, rank_c, size_c, ms, plugin.as_ptr(), signed(*device), err)
                })?
            }
        };
        Ok(ProcessGroup(group))
    }

    /// Combines `tensor` over all ranks, in place.
    ///
    /// Don't read the tensor before [`Work::wait`].
    ///
    /// # Errors
    /// a rank is gone, or ranks differ in shape or kind
    pub fn all_reduce(&self, tensor: &Tensor, op: Op) -> Result<Work, TorchError> {
        let doing = || format!("all-reducing ({op:?}) a tensor of shape {:?}", tensor.size());
        // SAFETY: both handles are live; the work keeps its own reference to the tensor.
        call(doing, |err| unsafe { ffi::bt_all_reduce(self.0, handle(tensor), op as i32, err) }).map(Work)
    }

    /// Copies rank `root`'s `tensor` into everybody's, in place; works on parameters too.
    ///
    /// # Errors
    /// a rank is gone, or ranks differ in shape or kind
    pub fn broadcast(&self, tensor: &Tensor, root: u32) -> Result<Work, TorchError> {
        let doing = || format!("broadcasting a tensor of shape {:?} from rank {root}", tensor.size());
        // SAFETY: both handles are live; the work keeps its own reference to the tensor.
        call(doing, |err| unsafe { ffi::bt_broadcast(self.0, handle(tensor), signed(root), err) }).map(Work)
    }

    /// Waits for all ranks, at most `timeout`.
    ///
    /// # Errors
    /// a rank is gone or late
    pub fn barrier(&self, timeout: Duration) -> Result<(), TorchError> {
        let doing = || "waiting for the other ranks".to_owned();
        // SAFETY: the handle is live.
        let work = call(doing, |err| unsafe { ffi::bt_barrier(self.0, err) }).map(Work)?;
        work.wait_at_most(timeout)
    }

    /// Like [`ProcessGroup::barrier`], slower, but rank 0's error names the ranks that did not come. Gloo only.
    ///
    /// # Errors
    /// a rank is gone or late
    pub fn roll_call(&self, timeout: Duration) -> Result<(), TorchError> {
        let doing = || "calling the roll of ranks".to_owned();
        // SAFETY: the handle is live.
        call(doing, |err| unsafe { ffi::bt_monitored_barrier(self.0, millis(timeout), err) }).map(|_| ())
    }
}

impl Work {
    /// Waits until it is done, at most the group's timeout.
    ///
    /// # Errors
    /// a rank died ("connection closed by peer") or hung ("timed out")
    pub fn wait(self) -> Result<(), TorchError> {
        self.waited(0)
    }

    /// Waits until it is done, at most `timeout`.
    ///
    /// # Errors
    /// as [`Work::wait`]
    pub fn wait_at_most(self, timeout: Duration) -> Result<(), TorchError> {
        self.waited(millis(timeout))
    }

    fn waited(self, timeout_ms: i64) -> Result<(), TorchError> {
        let doing = || "waiting for a collective operation".to_owned();
        // SAFETY: the handle is live until the end of this function.
        call(doing, |err| unsafe { ffi::bt_work_wait(self.0, timeout_ms, err) }).map(|_| ())
    }

    /// Whether it is done; does not wait.
    ///
    /// # Errors
    /// it failed
    pub fn is_done(&self) -> Result<bool, TorchError> {
        let doing = || "asking after a collective operation".to_owned();
        // SAFETY: the handle is live.
        call(doing, |err| unsafe { ffi::bt_work_is_done(self.0, err) }).map(|done| done != 0)
    }
}

/// Ranks and devices as C's `int`; c10d refuses what does not fit.
fn signed(count: u32) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}
