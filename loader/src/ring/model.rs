//! Loom tries every interleaving, and every value the memory model allows a load to see:
//! `RUSTFLAGS="--cfg loom" cargo test --release -p beit-loader --lib ring`
#![expect(unsafe_code, reason = "loom's cells hand out pointers")]

use super::*;
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;

/// The data of one rank's slots, in cells that tell loom of every access.
struct Store {
    ring: Ring,
    cells: Vec<UnsafeCell<u64>>,
}

// SAFETY: the claim that keeps this sound is what is tested: loom reports any two accesses to one cell that
// the ring has not ordered.
unsafe impl Sync for Store {}

impl Store {
    fn new(shape: Shape) -> Arc<Store> {
        let cells = (0..shape.slots * shape.batch).map(|_| UnsafeCell::new(0)).collect();
        Arc::new(Store { ring: Ring::new(shape), cells })
    }

    /// A worker's life, until the run is over or it has filled so many samples.
    fn fill(&self, samples: usize) {
        let mut filled = 0;
        while filled < samples {
            match self.ring.claim() {
                Claimed::Sample(claim) => {
                    let cell = &self.cells[claim.slot * self.ring.shape().batch as usize + claim.sample];
                    // SAFETY: the claim is the only one for this cell.
                    cell.with_mut(|value| unsafe { *value = claim.step * 10 + claim.sample as u64 });
                    self.ring.finish(claim);
                    filled += 1;
                }
                Claimed::Full => self.ring.wait_for_space(),
                Claimed::Over => return,
            }
        }
    }

    /// A consumer's step, checking every sample of it.
    fn consume(&self, step: u64) {
        self.ring.wait_for(0, step).unwrap();
        let batch = self.ring.shape().batch as usize;
        for sample in 0..batch {
            let cell = &self.cells[self.ring.slot_of(step) * batch + sample];
            // SAFETY: the slot is published and not yet released.
            cell.with(|value| assert_eq!(unsafe { *value }, step * 10 + sample as u64));
        }
        self.ring.release(0, step);
    }
}

fn check(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}

fn spawn(store: &Arc<Store>, life: impl FnOnce(&Store) + 'static) -> thread::JoinHandle<()> {
    let store = store.clone();
    thread::spawn(move || life(&store))
}

#[test]
fn two_workers_fill_one_batch() {
    check(4, || {
        let store = Store::new(Shape { ranks: 1, slots: 1, batch: 2, first_step: 3 });
        let workers = [spawn(&store, |store| store.fill(1)), spawn(&store, |store| store.fill(1))];
        store.consume(3);
        for worker in workers {
            worker.join().unwrap();
        }
    });
}

#[test]
fn two_workers_use_a_slot_again() {
    check(2, || {
        let store = Store::new(Shape { ranks: 1, slots: 1, batch: 2, first_step: 3 });
        let workers = [spawn(&store, |store| store.fill(2)), spawn(&store, |store| store.fill(2))];
        store.consume(3);
        store.consume(4);
        for worker in workers {
            worker.join().unwrap();
        }
    });
}

#[test]
fn two_slots_fill_while_the_consumer_reads() {
    check(2, || {
        let store = Store::new(Shape { ranks: 1, slots: 2, batch: 1, first_step: 0 });
        let worker = spawn(&store, |store| store.fill(usize::MAX));
        for step in 0..3 {
            store.consume(step);
        }
        store.ring.close(0);
        worker.join().unwrap();
    });
}

#[test]
fn a_failure_wakes_the_sleeping_consumer_and_the_sleeping_workers() {
    check(2, || {
        let store = Store::new(Shape { ranks: 1, slots: 1, batch: 2, first_step: 0 });
        let worker = spawn(&store, |store| {
            // Fills half a batch, then dies as a panicking worker does.
            let Claimed::Sample(claim) = store.ring.claim() else { panic!("a fresh ring has space") };
            store.ring.finish(claim);
            store.ring.fail();
        });
        let other = spawn(&store, |store| {
            while store.ring.over().is_none() {
                store.ring.wait_for_space();
                if store.ring.over().is_none() && matches!(store.ring.claim(), Claimed::Sample(_)) {
                    // Takes the other half and never finishes it.
                    break;
                }
            }
        });
        assert_eq!(store.ring.wait_for(0, 0), Err(Over::Failed));
        worker.join().unwrap();
        other.join().unwrap();
    });
}

#[test]
fn the_last_of_two_consumers_to_hang_up_ends_the_workers() {
    check(2, || {
        let store = Store::new(Shape { ranks: 2, slots: 1, batch: 1, first_step: 0 });
        let hang_up = spawn(&store, |store| store.ring.close(1));
        let worker = spawn(&store, |store| {
            loop {
                match store.ring.claim() {
                    Claimed::Sample(claim) => drop(store.ring.finish(claim)),
                    Claimed::Full => store.ring.wait_for_space(),
                    Claimed::Over => return,
                }
            }
        });
        store.ring.close(0);
        hang_up.join().unwrap();
        worker.join().unwrap();
        assert_eq!(store.ring.over(), Some(Over::Stopped));
    });
}
