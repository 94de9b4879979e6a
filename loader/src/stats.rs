//! What the loader counts while it runs; plain atomics that anybody may read at any time.

use crate::corrupt::CorruptStats;
use crate::histogram::{Histogram, Times};
use crossbeam::utils::CachePadded;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// Counters of one loader. Workers add to them every few samples, ranks at every batch.
#[derive(Debug)]
pub struct LoaderStats {
    /// Records asked for.
    pub asked: AtomicU64,
    /// Records read whose checksums hold.
    pub records: AtomicU64,
    /// Views finished.
    pub images: AtomicU64,
    /// Bytes of the payloads they were decoded from.
    pub bytes: AtomicU64,
    /// Time in reading and verifying records, and in asking the kernel for those ahead.
    pub read_ns: AtomicU64,
    /// Time in finding and entropy-decoding the crop.
    pub entropy_ns: AtomicU64,
    /// Time in inverse DCT, upsampling and colour.
    pub idct_ns: AtomicU64,
    /// Time in colour jitter and flip, and whatever is fused with them.
    pub jitter_ns: AtomicU64,
    /// Time in resizing.
    pub resize_ns: AtomicU64,
    /// Time in drawing views and masks.
    pub mask_ns: AtomicU64,
    /// Processor time in the ring: claiming samples and finishing them, of one sample in seven, times seven. By the clock,
    /// it would hold the time of whoever is woken and takes the core.
    pub handoff_ns: AtomicU64,
    /// Time workers slept because every slot was full.
    pub idle_ns: AtomicU64,
    /// Processor time of the workers, over everything they do.
    pub cpu_ns: AtomicU64,
    /// Time to make a view's pixels from its payload: entropy decoding, IDCT, jitter and resize of one sample.
    pub decode: Histogram,
    /// The local ranks, in their order.
    pub ranks: Box<[RankStats]>,
    /// What each worker is doing, a byte of its own cache line.
    workers: Box<[CachePadded<AtomicU8>]>,
    /// Records that could not be read.
    pub corrupt: CorruptStats,
}

/// Counters of one local rank.
#[derive(Debug, Default)]
pub struct RankStats {
    /// Time the rank has waited for batches.
    pub wait_ns: AtomicU64,
    /// Batches whose first sample was handed out to a worker.
    pub begun: AtomicU64,
    /// Batches that were completed.
    pub published: AtomicU64,
    /// Batches that the rank has given back.
    pub consumed: AtomicU64,
}

impl RankStats {
    /// Batches that lie complete, the one in the rank's hands included.
    pub fn depth(&self) -> u64 {
        let consumed = self.consumed.load(Ordering::Relaxed);
        self.published.load(Ordering::Relaxed).saturating_sub(consumed)
    }

    pub(crate) fn forget_ready(&self) {
        let published = self.published.load(Ordering::Relaxed);
        self.begun.store(published, Ordering::Relaxed);
        self.consumed.store(published, Ordering::Relaxed);
    }
}

impl LoaderStats {
    pub(crate) fn new(ranks: usize, workers: usize) -> LoaderStats {
        LoaderStats {
            asked: AtomicU64::new(0),
            records: AtomicU64::new(0),
            images: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            read_ns: AtomicU64::new(0),
            entropy_ns: AtomicU64::new(0),
            idct_ns: AtomicU64::new(0),
            jitter_ns: AtomicU64::new(0),
            resize_ns: AtomicU64::new(0),
            mask_ns: AtomicU64::new(0),
            handoff_ns: AtomicU64::new(0),
            idle_ns: AtomicU64::new(0),
            cpu_ns: AtomicU64::new(0),
            decode: Histogram::new(),
            ranks: (0..ranks).map(|_| RankStats::default()).collect(),
            workers: (0..workers).map(|_| CachePadded::default()).collect(),
            corrupt: CorruptStats::default(),
        }
    }

    /// How many workers are reading a record now.
    pub fn reading(&self) -> u64 {
        self.busy_with(Task::Read)
    }

    /// How many workers are making a view now.
    pub fn viewing(&self) -> u64 {
        self.busy_with(Task::View)
    }

    fn busy_with(&self, task: Task) -> u64 {
        self.workers.iter().filter(|worker| worker.load(Ordering::Relaxed) == task as u8).count() as u64
    }

    /// Worker `worker` does this now; one more than there were at the start is not shown.
    pub(crate) fn enter(&self, worker: usize, task: Task) {
        if let Some(worker) = self.workers.get(worker) {
            worker.store(task as u8, Ordering::Relaxed);
        }
    }
}

/// What a worker does; the ring's part is too short to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Task {
    /// Claiming, finishing, or waiting for a free slot.
    Ring = 0,
    /// Reading and verifying a record.
    Read = 1,
    /// Drawing and rendering a view.
    View = 2,
}

/// What one worker has counted and not yet added to the common counters.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub asked: u64,
    pub records: u64,
    pub images: u64,
    pub bytes: u64,
    pub read_ns: u64,
    pub entropy_ns: u64,
    pub idct_ns: u64,
    pub jitter_ns: u64,
    pub resize_ns: u64,
    pub mask_ns: u64,
    pub handoff_ns: u64,
    pub idle_ns: u64,
    pub cpu_ns: u64,
    pub decode: Times,
}

impl Tally {
    pub fn flush(&mut self, stats: &LoaderStats) {
        self.decode.flush(&stats.decode);
        for (from, to) in [
            (&mut self.asked, &stats.asked),
            (&mut self.records, &stats.records),
            (&mut self.images, &stats.images),
            (&mut self.bytes, &stats.bytes),
            (&mut self.read_ns, &stats.read_ns),
            (&mut self.entropy_ns, &stats.entropy_ns),
            (&mut self.idct_ns, &stats.idct_ns),
            (&mut self.jitter_ns, &stats.jitter_ns),
            (&mut self.resize_ns, &stats.resize_ns),
            (&mut self.mask_ns, &stats.mask_ns),
            (&mut self.handoff_ns, &stats.handoff_ns),
            (&mut self.idle_ns, &stats.idle_ns),
            (&mut self.cpu_ns, &stats.cpu_ns),
        ] {
            to.fetch_add(std::mem::take(from), Ordering::Relaxed);
        }
    }
}
