//! How fast the loader is on its own, with nobody behind it who could slow it down.

use crate::error::LoaderError;
use crate::loader::Loader;
use crate::options::Options;
use crate::worker::cpu_ns;
use beit_shards::{ReadBuf, ShardSet};
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use xxhash_rust::xxh3::xxh3_64;

/// What [`measure`] found.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LoaderReport {
    /// Views per second of the workers' processor time.
    pub images_per_s_per_core: f64,
    /// Views per second.
    pub images_per_s: f64,
    /// Bytes of payload per second.
    pub bytes_per_s: f64,
    /// Views in all.
    pub images: u64,
    /// How long it took.
    pub seconds: f64,
    /// Records that could not be read.
    pub corrupt: u64,
    /// Where the time goes.
    pub stages_us: StagesUs,
    /// Share of the stages' time for which the workers had a core: below 1 on a busy machine, whose stages by the
    /// clock are that much too long.
    pub core_share: f64,
    /// Microseconds per view of verifying checksums, a part of the stage `read`: measured by hashing as many bytes
    /// again of up to 256 records, in processor time.
    pub checksum_us: f64,
}

impl LoaderReport {
    /// The ring's share of the workers' processor time.
    pub fn handoff_share(&self) -> f64 {
        self.stages_us.handoff * self.images_per_s_per_core / 1e6
    }
}

/// Microseconds of each stage per view, by the clock: a worker that loses its core goes on counting.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StagesUs {
    /// Reading and verifying the record, reading ahead.
    pub read: f64,
    /// Finding and entropy-decoding the crop.
    pub entropy: f64,
    /// Inverse DCT, upsampling, colour.
    pub idct: f64,
    /// Colour jitter and flip, and whatever is fused with them.
    pub jitter: f64,
    /// Resizing.
    pub resize: f64,
    /// Drawing view and mask.
    pub mask: f64,
    /// The ring: claiming and finishing; processor time, see [`crate::LoaderStats::handoff_ns`].
    pub handoff: f64,
}

impl StagesUs {
    /// Time of all stages.
    pub fn total(&self) -> f64 {
        self.named().iter().map(|(_, us)| us).sum()
    }

    /// The stages with their names, in the order in which a sample passes them.
    pub fn named(&self) -> [(&'static str, f64); 7] {
        let StagesUs { read, entropy, idct, jitter, resize, mask, handoff } = *self;
        [
            ("read", read),
            ("entropy", entropy),
            ("idct", idct),
            ("jitter", jitter),
            ("resize", resize),
            ("mask", mask),
            ("handoff", handoff),
        ]
    }
}

/// Runs a loader with `threads` workers for about `seconds`, throwing its batches away.
///
/// # Errors
/// those of [`Loader::start`], and whatever ends the run early
pub fn measure(options: Options, threads: usize, seconds: f64) -> Result<LoaderReport, LoaderError> {
    let (ranks, shards) = (options.ranks.clone(), options.shards.clone());
    let started = Instant::now();
    let mut loader = Loader::start(Options { workers: threads, ..options })?;
    let stats = loader.stats();
    let mut ranks: Vec<_> = ranks.map(|rank| loader.take_rank(rank)).collect();
    let run = Duration::try_from_secs_f64(seconds).unwrap_or_default();
    while started.elapsed() < run {
        for rank in &mut ranks {
            rank.next()?;
        }
    }
    loader.stop();
    let seconds = started.elapsed().as_secs_f64();
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let images = count(&stats.images);
    let us = |counter: &AtomicU64| count(counter) as f64 / 1e3 / images.max(1) as f64;
    let stages_us = StagesUs {
        read: us(&stats.read_ns),
        entropy: us(&stats.entropy_ns),
        idct: us(&stats.idct_ns),
        jitter: us(&stats.jitter_ns),
        resize: us(&stats.resize_ns),
        mask: us(&stats.mask_ns),
        handoff: us(&stats.handoff_ns),
    };
    Ok(LoaderReport {
        images_per_s_per_core: images as f64 / (count(&stats.cpu_ns).max(1) as f64 / 1e9),
        images_per_s: images as f64 / seconds,
        bytes_per_s: count(&stats.bytes) as f64 / seconds,
        images,
        seconds,
        corrupt: stats.corrupt.records(),
        checksum_us: checksum_us(&shards),
        stages_us,
        core_share: (us(&stats.cpu_ns) / stages_us.total().max(f64::MIN_POSITIVE)).min(1.0),
    })
}

/// What a record's checksums cost: those of header, payload and frame all go over the stored bytes once, so hashing as
/// many bytes once more, right after they were read, takes as long.
fn checksum_us(set: &ShardSet) -> f64 {
    let (mut buf, mut ns, mut hashed) = (ReadBuf::new(), 0, 0);
    let stride = set.len().div_ceil(256).max(1);
    for sample in (0..set.len()).step_by(stride as usize) {
        let Ok(record) = set.read(sample, 0, &mut buf) else { continue };
        let stored = set.locate(sample).and_then(|(shard, record)| shard.entry(record));
        // A compressed payload is longer here than its record, whose bytes are what the checksums are over.
        let len = record.payload.len().min(stored.map_or(usize::MAX, |entry| entry.length as usize));
        let started = cpu_ns();
        black_box(xxh3_64(black_box(&record.payload[..len])));
        (ns, hashed) = (ns + cpu_ns() - started, hashed + 1);
    }
    ns as f64 / 1e3 / f64::from(hashed.max(1))
}
