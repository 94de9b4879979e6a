//! Order, read, decode, view, mask, batch ring.
//!
//! What comes in: a set of shards ([`beit_shards::ShardSet`]) and [`Options`]. What goes out: for each local rank,
//! one [`Batch`] after the other — pixels (u8, NHWC), visual tokens, masks and sample ids — in memory that is
//! allocated once. This room knows no tensors: normalising, and moving to a device, is the trainer's.
//!
//! Where to start: [`Loader::start`], then [`Loader::take_rank`] for each rank and [`RankBatches::next`] in its thread.
//! [`measure()`] runs a loader alone, for `beit-daemon doctor`.
//!
//! ```text
//!  Order ─▶ worker: claim ─▶ read ─▶ decode crop, jitter, resize ─▶ mask ─▶ finish ─▶ slot ─▶ RankBatches of rank 0
//!  (pure)   worker: …          one pool of threads for all local ranks               slot ─▶ RankBatches of rank 1
//!                                                  ◀── slots come back when a Batch is dropped ──┘
//! ```
//!
//! Four promises hold everywhere:
//! - What stands at a position of the run follows from the seed, the set and the position alone ([`Order`]); batch `step`
//!   of rank `r` holds the positions `step * G + r * B ..` of the next `B`. So the number of ranks (with the same global
//!   batch), of workers and of interruptions changes nothing, and every sample comes exactly once per epoch.
//! - A record that cannot be read is replaced by the next sound one in the epoch's order, with that epoch's view; it is
//!   counted, named once, and held against a budget.
//! - Nobody is left waiting: a stop, an error or a worker's panic reaches every rank that waits, and ranks that hang up
//!   end the workers.
//! - In steady state nothing is allocated, no lock is taken, and whoever waits sleeps.

mod ahead;
mod batch;
mod corrupt;
mod error;
mod histogram;
#[cfg(not(loom))]
#[doc(hidden)]
pub mod inner;
mod loader;
mod measure;
mod options;
mod order;
mod ring;
mod signal;
mod slot;
mod stats;
mod sync;
#[cfg(test)]
mod testing;
mod worker;

pub use batch::{Batch, RankBatches};
pub use corrupt::{CorruptRecord, CorruptStats};
pub use error::LoaderError;
pub use histogram::{BOUNDS_NS, BUCKETS, Histogram};
pub use loader::Loader;
pub use measure::{LoaderReport, StagesUs, measure};
pub use options::{OnCorrupt, Options};
pub use order::{EpochOrder, Generation, Order, Placed, SameClassRun, Shuffle, ShuffleQuality};
pub use stats::{LoaderStats, RankStats};
