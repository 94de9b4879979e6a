//! The memory of the batch slots, and who may touch which part of it when.
#![expect(
    unsafe_code,
    reason = "workers write disjoint parts of shared buffers; the one unsafe module of this room"
)]

use crate::ring::{Claim, Claimed, Over, Ring, Shape};
use beit_shards::SampleId;
use std::cell::UnsafeCell;

/// Bytes and numbers of one sample.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SampleSize {
    /// `S * S * 3`
    pub pixels: usize,
    /// The same of the token view; 0 where tokens come from the shards.
    pub token_pixels: usize,
    /// Patches, `N`.
    pub patches: usize,
}

impl SampleSize {
    /// Bytes of a slot of `batch` samples.
    pub fn slot_bytes(&self, batch: u64) -> u64 {
        batch.saturating_mul(
            (self.pixels + self.token_pixels + self.patches * (2 + 1) + size_of::<SampleId>()) as u64,
        )
    }
}

/// The rings of all local ranks with their memory.
pub(crate) struct Slots {
    ring: Ring,
    size: SampleSize,
    /// Slot `s` of rank `r` is number `r * slots + s`.
    data: Box<[SlotData]>,
}

struct SlotData {
    pixels: Shared<u8>,
    token_pixels: Shared<u8>,
    tokens: Shared<u16>,
    mask: Shared<u8>,
    ids: Shared<SampleId>,
}

/// The place of one sample, for the worker that has claimed it.
pub(crate) struct SampleMut<'a> {
    /// `[S, S, 3]`
    pub pixels: &'a mut [u8],
    /// The token view, or nothing.
    pub token_pixels: &'a mut [u8],
    /// `[N]`
    pub tokens: &'a mut [u16],
    /// `[N]`
    pub mask: &'a mut [u8],
    pub id: &'a mut SampleId,
}

/// The right to consume the batches of one rank, one after the other; there is one of it for each rank.
#[derive(Debug)]
pub(crate) struct Consumer {
    rank: usize,
    step: u64,
}

/// A complete batch; goes back to the workers when dropped.
pub(crate) struct Full<'a> {
    slots: &'a Slots,
    consumer: &'a mut Consumer,
}

/// Memory of which several threads hold disjoint parts.
struct Shared<T>(Box<[UnsafeCell<T>]>);

// SAFETY: parts are handed out by `Slots` only: to a worker by a claim, of which the ring makes one for each place,
// or to the consumer while the slot is published. The ring's atomics order the one before the other (`ring.rs`; its
// loom model checks exactly this).
unsafe impl<T: Send + Sync> Sync for Shared<T> {}

impl<T: Copy + Default> Shared<T> {
    /// Zeroed memory; `None` when there is not enough.
    fn new(len: usize) -> Option<Shared<T>> {
        let mut cells = Vec::new();
        cells.try_reserve_exact(len).ok()?;
        cells.resize_with(len, || UnsafeCell::new(T::default()));
        Some(Shared(cells.into_boxed_slice()))
    }

    /// Part number `index` of parts of `len` elements.
    ///
    /// # Safety
    /// nobody else holds that part
    #[expect(clippy::mut_from_ref, reason = "the caller promises that nobody else holds the part")]
    unsafe fn part_mut(&self, index: usize, len: usize) -> &mut [T] {
        let cells = &self.0[index * len..(index + 1) * len];
        // SAFETY: an UnsafeCell<T> lies in memory as a T does, the slice above has checked the bounds, and by this
        // function's contract the reference is the only one.
        unsafe { std::slice::from_raw_parts_mut(UnsafeCell::raw_get(cells.as_ptr()), len) }
    }

    /// All of it.
    ///
    /// # Safety
    /// nobody writes to any part of it
    unsafe fn whole(&self) -> &[T] {
        // SAFETY: as above, and by this function's contract there are only readers.
        unsafe { std::slice::from_raw_parts(UnsafeCell::raw_get(self.0.as_ptr()).cast_const(), self.0.len()) }
    }
}

impl Slots {
    /// Allocates everything that will ever be needed; `None` when there is not enough memory.
    pub fn new(shape: Shape, size: SampleSize) -> Option<(Slots, Vec<Consumer>)> {
        let batch = usize::try_from(shape.batch).ok()?;
        let slot = || {
            Some(SlotData {
                pixels: Shared::new(batch.checked_mul(size.pixels)?)?,
                token_pixels: Shared::new(batch.checked_mul(size.token_pixels)?)?,
                tokens: Shared::new(batch.checked_mul(size.patches)?)?,
                mask: Shared::new(batch.checked_mul(size.patches)?)?,
                ids: Shared::new(batch)?,
            })
        };
        let count = shape.ranks.checked_mul(usize::try_from(shape.slots).ok()?)?;
        let data = (0..count).map(|_| slot()).collect::<Option<_>>()?;
        let consumers = (0..shape.ranks).map(|rank| Consumer { rank, step: shape.first_step }).collect();
        Some((Slots { ring: Ring::new(shape), size, data }, consumers))
    }

    /// See [`Ring::claim`].
    pub fn claim(&self) -> Claimed {
        self.ring.claim()
    }

    /// See [`Ring::wait_for_space`].
    pub fn wait_for_space(&self) {
        self.ring.wait_for_space();
    }

    /// The memory of a claimed sample.
    pub fn sample_mut<'a>(&'a self, claim: &'a mut Claim) -> SampleMut<'a> {
        let data = self.slot(claim.rank, claim.slot);
        let place = claim.sample;
        // SAFETY: claims come from `Slots::claim` alone, cannot be copied, and the ring makes no second one for a
        // place before the slot has been published, consumed and released. Until then the consumer reads nothing of
        // it, and `claim` stays borrowed for as long as this memory is.
        unsafe {
            SampleMut {
                pixels: data.pixels.part_mut(place, self.size.pixels),
                token_pixels: data.token_pixels.part_mut(place, self.size.token_pixels),
                tokens: data.tokens.part_mut(place, self.size.patches),
                mask: data.mask.part_mut(place, self.size.patches),
                id: &mut data.ids.part_mut(place, 1)[0],
            }
        }
    }

    /// See [`Ring::finish`].
    pub fn finish(&self, claim: Claim) -> bool {
        self.ring.finish(claim)
    }

    /// Whether the consumer's next batch is complete.
    pub fn is_ready(&self, consumer: &Consumer) -> bool {
        self.ring.is_ready(consumer.rank, consumer.step)
    }

    /// Blocks until the consumer's next batch is complete.
    ///
    /// # Errors
    /// why there will not be one
    pub fn wait_for(&self, consumer: &Consumer) -> Result<(), Over> {
        self.ring.wait_for(consumer.rank, consumer.step)
    }

    /// The consumer's next batch; blocks as [`Slots::wait_for`] does.
    pub fn take<'a>(&'a self, consumer: &'a mut Consumer) -> Result<Full<'a>, Over> {
        self.wait_for(consumer)?;
        Ok(Full { slots: self, consumer })
    }

    /// The consumer hangs up.
    pub fn close(&self, consumer: &Consumer) {
        self.ring.close(consumer.rank);
    }

    /// See [`Ring::stop`].
    pub fn stop(&self) {
        self.ring.stop();
    }

    /// See [`Ring::fail`].
    pub fn fail(&self) {
        self.ring.fail();
    }

    fn slot(&self, rank: usize, slot: usize) -> &SlotData {
        &self.data[rank * self.ring.shape().slots as usize + slot]
    }
}

impl Consumer {
    /// The local rank, from 0.
    pub fn rank(&self) -> usize {
        self.rank
    }
}

impl Full<'_> {
    pub fn step(&self) -> u64 {
        self.consumer.step
    }

    pub fn rank(&self) -> usize {
        self.consumer.rank
    }

    /// `[B, S, S, 3]`
    pub fn pixels(&self) -> &[u8] {
        // SAFETY: see `data`.
        unsafe { self.data().pixels.whole() }
    }

    /// The token views, or nothing.
    pub fn token_pixels(&self) -> &[u8] {
        // SAFETY: see `data`.
        unsafe { self.data().token_pixels.whole() }
    }

    /// `[B, N]`
    pub fn tokens(&self) -> &[u16] {
        // SAFETY: see `data`.
        unsafe { self.data().tokens.whole() }
    }

    /// `[B, N]`
    pub fn mask(&self) -> &[u8] {
        // SAFETY: see `data`.
        unsafe { self.data().mask.whole() }
    }

    /// `[B]`
    pub fn ids(&self) -> &[SampleId] {
        // SAFETY: see `data`.
        unsafe { self.data().ids.whole() }
    }

    /// The slot, which nobody writes to: it is published, every claim on it is finished, and new ones are made only
    /// after the release in `drop`, which outlives every borrow of `self`. The rank's only consumer is borrowed.
    fn data(&self) -> &SlotData {
        self.slots.slot(self.consumer.rank, self.slots.ring.slot_of(self.consumer.step))
    }
}

impl Drop for Full<'_> {
    fn drop(&mut self) {
        self.slots.ring.release(self.consumer.rank, self.consumer.step);
        self.consumer.step += 1;
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// Small enough for Miri, which looks at every access.
    #[test]
    fn workers_write_their_places_and_the_consumer_reads_whole_batches() {
        let (ranks, steps) = (2, 5);
        let shape = Shape { ranks, slots: 2, batch: 3, first_step: 4 };
        let (slots, consumers) =
            Slots::new(shape, SampleSize { pixels: 6, token_pixels: 2, patches: 4 }).unwrap();
        let slots = &slots;
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(move || {
                    loop {
                        match slots.claim() {
                            Claimed::Sample(mut claim) => {
                                let value =
                                    (claim.step * 10 + claim.sample as u64) as u8 + claim.rank as u8 * 100;
                                let sample = slots.sample_mut(&mut claim);
                                sample.pixels.fill(value);
                                sample.token_pixels.fill(value + 1);
                                sample.tokens.fill(value.into());
                                sample.mask.fill(value % 2);
                                *sample.id = SampleId(value.into());
                                slots.finish(claim);
                            }
                            Claimed::Full => slots.wait_for_space(),
                            Claimed::Over => return,
                        }
                    }
                });
            }
            for mut consumer in consumers {
                scope.spawn(move || {
                    for step in 4..4 + steps {
                        let full = slots.take(&mut consumer).unwrap();
                        assert_eq!(full.step(), step);
                        for sample in 0..3 {
                            let value = (step * 10 + sample as u64) as u8 + full.rank() as u8 * 100;
                            assert!(full.pixels()[sample * 6..][..6].iter().all(|&pixel| pixel == value));
                            assert_eq!(full.token_pixels()[sample * 2..][..2], [value + 1; 2]);
                            assert!(
                                full.tokens()[sample * 4..][..4].iter().all(|&token| token == value.into())
                            );
                            assert!(full.mask()[sample * 4..][..4].iter().all(|&flag| flag == value % 2));
                            assert_eq!(full.ids()[sample], SampleId(value.into()));
                        }
                    }
                    slots.close(&consumer);
                });
            }
        });
    }

    #[test]
    fn slots_beyond_memory_are_refused() {
        let shape = Shape { ranks: 1, slots: 2, batch: u64::MAX / 4, first_step: 0 };
        assert!(Slots::new(shape, SampleSize { pixels: 8, token_pixels: 0, patches: 4 }).is_none());
    }
}
