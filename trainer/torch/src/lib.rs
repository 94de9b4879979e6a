//! The C++ shim over libtorch: what tch leaves out and the trainer needs.
//!
//! Comes in: tch tensors. Goes out: averaged gradients, stepped parameters, and errors that say what we were doing.
//! Start at [`Store`] → [`ProcessGroup`] → [`Reducer`] for several ranks, at [`fused_adamw`] for one update.
//!
//! Every foreign function catches every C++ exception, so a failing libtorch is an [`Err`], never an abort.
//! NCCL comes as a plug-in that is opened at run time; that path compiles everywhere and has not yet run on a GPU.

mod autocast;
pub mod cuda;
mod error;
mod ffi;
mod group;
mod linear;
mod lists;
mod optim;
mod recompute;
mod reducer;
mod store;
mod threads;

pub use autocast::Autocast;
pub use error::TorchError;
pub use group::{Backend, Op, ProcessGroup, Work};
pub use linear::linear;
pub use lists::{amp_unscale, clip_to_norm, foreach_norm, foreach_scale, foreach_zero};
pub use optim::{AdamW, fused_adamw};
pub use recompute::recomputed;
pub use reducer::{Reducer, ReducerOptions};
pub use store::Store;
pub use threads::{set_threads, threads};

#[cfg(test)]
mod tests;
