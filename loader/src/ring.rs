//! The rings between workers and ranks: who may fill which slot, and when a slot is full or free again.
//!
//! Each local rank has a ring of `slots` batch slots. Its samples are counted from the first step on: sample `c`
//! belongs to step `c / batch`, and that step to slot `step % slots`. One atomic per rank hands out these counts;
//! a worker always takes the next sample of the rank that is furthest behind, so ranks fill up evenly. Whoever
//! finishes the last sample of a slot publishes it; the rank that consumed it gives it back.
//!
//! There are no locks here and nothing is allocated after [`Ring::new`]. A claim can fail only because another
//! worker's succeeded. The data itself lies in `slot.rs`; `ring/model.rs` is the loom model of this file.

use crate::signal::Signal;
use crate::sync::{AtomicU32, AtomicU64, Ordering};
use crossbeam::utils::CachePadded;

const RUNNING: u32 = 0;
const STOPPED: u32 = 1;
const FAILED: u32 = 2;
/// In `released`: the rank's consumer has hung up.
const CLOSED: u64 = u64::MAX;

/// How many there are of everything; fixed for the life of a ring.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// Local ranks.
    pub ranks: usize,
    /// Batch slots of each rank.
    pub slots: u64,
    /// Samples of one slot.
    pub batch: u64,
    /// The step that is handed out first.
    pub first_step: u64,
}

pub(crate) struct Ring {
    shape: Shape,
    ranks: Box<[CachePadded<Rank>]>,
    state: AtomicU32,
    /// For workers: a slot came free, or the state changed.
    space: Signal,
}

struct Rank {
    /// The next sample to hand out, counted from step 0.
    claimed: AtomicU64,
    /// Steps that the consumer has given back, counted from step 0; [`CLOSED`] once it has hung up.
    released: AtomicU64,
    slots: Box<[Slot]>,
    /// For the consumer: a slot was published, or the state changed.
    ready: Signal,
}

struct Slot {
    /// Samples that are not finished yet.
    missing: AtomicU64,
    /// One more than the step that lies here complete; 0 before the first.
    published: AtomicU64,
}

/// The right to fill one sample of one slot; there is never a second one for the same place.
#[derive(Debug)]
pub(crate) struct Claim {
    /// Local rank, from 0.
    pub rank: usize,
    pub step: u64,
    /// The slot of the rank's ring.
    pub slot: usize,
    /// Place in the batch.
    pub sample: usize,
}

/// What [`Ring::claim`] found.
#[derive(Debug)]
pub(crate) enum Claimed {
    Sample(Claim),
    /// Every slot is full or being filled.
    Full,
    /// The run is over.
    Over,
}

/// Why there will be no further batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Over {
    Stopped,
    Failed,
}

impl Ring {
    pub fn new(shape: Shape) -> Ring {
        let slot = || Slot { missing: AtomicU64::new(shape.batch), published: AtomicU64::new(0) };
        let rank = || Rank {
            claimed: AtomicU64::new(shape.first_step * shape.batch),
            released: AtomicU64::new(shape.first_step),
            slots: (0..shape.slots).map(|_| slot()).collect(),
            ready: Signal::new(),
        };
        Ring {
            shape,
            ranks: (0..shape.ranks).map(|_| CachePadded::new(rank())).collect(),
            state: AtomicU32::new(RUNNING),
            space: Signal::new(),
        }
    }

    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Takes the next sample of the rank that is furthest behind.
    pub fn claim(&self) -> Claimed {
        loop {
            if self.over().is_some() {
                return Claimed::Over;
            }
            let mut behind: Option<(u64, usize)> = None;
            for (number, rank) in self.ranks.iter().enumerate() {
                // Acquire: the consumer is done with every slot it has given back.
                let released = rank.released.load(Ordering::Acquire);
                if released == CLOSED {
                    continue;
                }
                let next = rank.claimed.load(Ordering::Relaxed);
                let free = next < (released + self.shape.slots) * self.shape.batch;
                if free && behind.is_none_or(|(least, _)| next < least) {
                    behind = Some((next, number));
                }
            }
            let Some((next, number)) = behind else { return Claimed::Full };
            let claimed = &self.ranks[number].claimed;
            if claimed.compare_exchange_weak(next, next + 1, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                let step = next / self.shape.batch;
                return Claimed::Sample(Claim {
                    rank: number,
                    step,
                    slot: (step % self.shape.slots) as usize,
                    sample: (next % self.shape.batch) as usize,
                });
            }
        }
    }

    /// Sleeps until [`Ring::claim`] may find something else than `Full`; may return early.
    pub fn wait_for_space(&self) {
        let listening = self.space.listen();
        if !self.any_space() && self.over().is_none() {
            self.space.sleep(listening);
        }
    }

    fn any_space(&self) -> bool {
        self.ranks.iter().any(|rank| {
            let released = rank.released.load(Ordering::Acquire);
            released != CLOSED
                && rank.claimed.load(Ordering::Relaxed) < (released + self.shape.slots) * self.shape.batch
        })
    }

    /// Ends a claim whose sample is written; `true` when that completed and published the slot.
    pub fn finish(&self, claim: Claim) -> bool {
        let rank = &self.ranks[claim.rank];
        let slot = &rank.slots[claim.slot];
        // Release what this worker wrote; acquire what the others wrote, in case this is the last sample.
        if slot.missing.fetch_sub(1, Ordering::AcqRel) != 1 {
            return false;
        }
        slot.published.store(claim.step + 1, Ordering::Release);
        rank.ready.notify();
        true
    }

    /// Whether the batch of `step` is complete; the consumer may then read its slot until it releases it.
    pub fn is_ready(&self, rank: usize, step: u64) -> bool {
        let slot = &self.ranks[rank].slots[self.slot_of(step)];
        slot.published.load(Ordering::Acquire) == step + 1
    }

    pub fn slot_of(&self, step: u64) -> usize {
        (step % self.shape.slots) as usize
    }

    /// Blocks until the batch of `step` is complete.
    ///
    /// # Errors
    /// the reason, when the run is over and the batch will not come
    pub fn wait_for(&self, rank: usize, step: u64) -> Result<(), Over> {
        loop {
            match self.over() {
                Some(Over::Stopped) => return Err(Over::Stopped),
                // What was finished before something failed is still good.
                _ if self.is_ready(rank, step) => return Ok(()),
                Some(over) => return Err(over),
                None => {}
            }
            let ready = &self.ranks[rank].ready;
            let listening = ready.listen();
            if !self.is_ready(rank, step) && self.over().is_none() {
                ready.sleep(listening);
            }
        }
    }

    /// Gives the slot of `step` back to the workers; steps must be released in order.
    pub fn release(&self, rank: usize, step: u64) {
        let rank = &self.ranks[rank];
        // Nobody can claim into this slot before `released` moves, so the order of these two is all that counts.
        rank.slots[self.slot_of(step)].missing.store(self.shape.batch, Ordering::Relaxed);
        rank.released.store(step + 1, Ordering::Release);
        self.space.notify();
    }

    /// The consumer of `rank` hangs up; the run stops when all have.
    pub fn close(&self, rank: usize) {
        self.ranks[rank].released.store(CLOSED, Ordering::Release);
        // Two that hang up at once must not both miss the other: the read-modify-write in `notify` orders them.
        self.space.notify();
        if self.ranks.iter().all(|rank| rank.released.load(Ordering::Acquire) == CLOSED) {
            self.end(STOPPED);
        }
    }

    /// Ends the run; everybody who waits is woken.
    pub fn stop(&self) {
        self.end(STOPPED);
    }

    /// Ends the run because of an error; everybody who waits is woken.
    pub fn fail(&self) {
        self.end(FAILED);
    }

    /// Whether, and why, the run has ended. The first reason stands.
    pub fn over(&self) -> Option<Over> {
        match self.state.load(Ordering::Acquire) {
            RUNNING => None,
            STOPPED => Some(Over::Stopped),
            _ => Some(Over::Failed),
        }
    }

    fn end(&self, state: u32) {
        let _ = self.state.compare_exchange(RUNNING, state, Ordering::AcqRel, Ordering::Acquire);
        self.space.notify();
        for rank in &self.ranks {
            rank.ready.notify();
        }
    }
}

#[cfg(all(test, loom))]
mod model;
#[cfg(all(test, not(loom)))]
mod tests;
