//! Model, loss, optimizer, schedule, step, checkpoint: what turns shards into a trained BEiT.
//!
//! In comes a [`plan::Plan`], made of a [`recipe::Recipe`], a data set, ranks and a device; out come checkpoints, a log
//! and numbers. Start at [`recipe`] and [`plan`].

mod checkpoint;
pub mod control;
pub mod device;
pub mod drop_path;
pub mod error;
pub mod init;
mod lock;
pub mod loss;
pub mod model;
pub mod optimizer;
pub mod ranks;
pub mod recipe;
pub mod schedule;
