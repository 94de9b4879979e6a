//! How fast the loader is on its own, with nobody behind it who could slow it down.

use crate::error::LoaderError;
use crate::loader::Loader;
use crate::options::Options;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

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
}

/// Microseconds of each stage per view, by the clock: a worker that loses its core goes on counting.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StagesUs {
    /// Reading and verifying the record, reading ahead.
    pub read: f64,
    /// Cutting out the crop, entropy decoding, inverse DCT, colour.
    pub decode: f64,
    /// Colour jitter and flip, and whatever is fused with them.
    pub jitter: f64,
    /// Resizing.
    pub resize: f64,
    /// Drawing view and mask.
    pub mask: f64,
    /// The ring: claiming and finishing.
    pub handoff: f64,
}

impl StagesUs {
    /// The stages with their names, in the order in which a sample passes them.
    pub fn named(&self) -> [(&'static str, f64); 6] {
        let StagesUs { read, decode, jitter, resize, mask, handoff } = *self;
        [
            ("read", read),
            ("decode", decode),
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
    let ranks = options.ranks.clone();
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
    Ok(LoaderReport {
        images_per_s_per_core: images as f64 / (count(&stats.cpu_ns).max(1) as f64 / 1e9),
        images_per_s: images as f64 / seconds,
        bytes_per_s: count(&stats.bytes) as f64 / seconds,
        images,
        seconds,
        corrupt: stats.corrupt.records(),
        stages_us: StagesUs {
            read: us(&stats.read_ns),
            decode: us(&stats.decode_ns),
            jitter: us(&stats.jitter_ns),
            resize: us(&stats.resize_ns),
            mask: us(&stats.mask_ns),
            handoff: us(&stats.handoff_ns),
        },
    })
}
