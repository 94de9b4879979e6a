//! Model, loss, optimizer, schedule, step, checkpoint: what turns shards into a trained BEiT.
//!
//! In comes a [`plan::Plan`], made of a [`recipe::Recipe`], a data set, ranks and a device; out come checkpoints, a log
//! and numbers. Start at [`recipe`] and [`plan`].

mod checkpoint;
pub mod control;
pub mod device;
pub mod error;
mod lock;
pub mod ranks;
pub mod recipe;
