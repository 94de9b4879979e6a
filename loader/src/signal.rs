//! A place to sleep until something changes.
//!
//! One word: a count of changes, and in its lowest bit whether anybody sleeps. Sleepers and wakers meet in
//! read-modify-write operations on that one word, so either the waker sees the sleeper, or the sleeper sees
//! what the waker wrote before. Nobody spins, and a waker without sleepers makes no system call.

use crate::sync::{AtomicU32, Futex, Ordering};

const SLEEPERS: u32 = 1;

pub(crate) struct Signal {
    word: AtomicU32,
    futex: Futex,
}

/// Proof of having announced oneself; whatever is looked at between [`Signal::listen`] and
/// [`Signal::sleep`] cannot change unnoticed.
pub(crate) struct Listening(u32);

impl Signal {
    pub fn new() -> Signal {
        Signal { word: AtomicU32::new(0), futex: Futex::new() }
    }

    /// Announces a sleeper. Look at what you wait for after this, and sleep only if it is not there.
    pub fn listen(&self) -> Listening {
        Listening(self.word.fetch_or(SLEEPERS, Ordering::AcqRel) | SLEEPERS)
    }

    /// Sleeps until notified; returns at once when that happened since `listen`. May return early: look again.
    pub fn sleep(&self, listening: Listening) {
        self.futex.wait(&self.word, listening.0);
    }

    /// Wakes every sleeper. What was written before is seen by whoever listens after.
    pub fn notify(&self) {
        // The carry out of the lowest bit counts the change and clears the bit in one operation.
        let next = |word: u32| Some((word | SLEEPERS).wrapping_add(1));
        let before = self.word.fetch_update(Ordering::AcqRel, Ordering::Relaxed, next);
        if before.is_ok_and(|word| word & SLEEPERS != 0) {
            self.futex.wake_all(&self.word);
        }
    }
}
