//! Model, loss, optimizer, schedule, step, checkpoint: what turns shards into a trained BEiT.
//!
//! In comes a [`plan::Plan`], made of a [`recipe::Recipe`], a data set, ranks and a device; out come checkpoints, a log
//! and numbers. Start at [`run::run`], which reads like a run; [`plan`] says what may be run.

pub mod device;
pub mod plan;
pub mod ranks;
pub mod recipe;

pub mod audit;
pub mod batches;
pub mod checkpoint;
pub mod control;
mod epoch_log;
pub mod evaluate;
mod feed;
mod generation;
pub mod interchange;
mod lock;
mod log;
pub mod measure;
pub mod memory;
mod meter;
mod online;
pub mod run;
pub mod stats;
mod step;
mod tensorboard;
mod utilization;

pub mod amp;
pub mod drop_path;
pub mod init;
pub mod loss;
pub mod model;
pub mod optimizer;
pub mod schedule;

#[cfg(test)]
mod golden;

pub mod error;

#[cfg(test)]
mod testing;
