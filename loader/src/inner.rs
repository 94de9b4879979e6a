//! Pieces for the benches; not part of the public promise.

use crate::ring::{Claimed, Ring, Shape};
use std::fmt;

/// The ring with nothing in it, worked and consumed by one thread.
pub struct Handoff {
    ring: Ring,
    step: u64,
}

impl Handoff {
    /// So many ranks with so many slots of so many samples.
    pub fn new(ranks: usize, slots: u64, batch: u64) -> Handoff {
        Handoff { ring: Ring::new(Shape { ranks, slots, batch, first_step: 0 }), step: 0 }
    }

    /// Claims and finishes the samples of one batch of each rank, then consumes the batches.
    ///
    /// # Panics
    /// when the ring has no space for a batch of each rank, which it always has
    pub fn pass_one_batch_each(&mut self) {
        let Shape { ranks, batch, .. } = self.ring.shape();
        for _ in 0..ranks as u64 * batch {
            match self.ring.claim() {
                Claimed::Sample(claim) => drop(self.ring.finish(claim)),
                other => panic!("an empty ring has space: {other:?}"),
            }
        }
        for rank in 0..ranks {
            assert!(self.ring.is_ready(rank, self.step));
            self.ring.release(rank, self.step);
        }
        self.step += 1;
    }
}

impl fmt::Debug for Handoff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handoff").field("step", &self.step).finish_non_exhaustive()
    }
}
