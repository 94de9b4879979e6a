//! Tally: what this process has done so far, in plain counters that any thread may read while the line works.
//!
//! The packing line counts whether or not somebody asks; [`crate::metrics`] turns it into what Prometheus reads.

use crate::stages::{CpuSeconds, Stages};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

/// Why an image is kept out: every reason there is.
pub const REASONS: [&str; 7] =
    ["corrupt", "not_an_image", "too_large", "too_small", "truncated", "unreadable", "unsupported"];

/// Counters of a process; all lines of a watch add to the same.
#[derive(Debug)]
pub struct Tally {
    pub stages: Stages,
    /// When the process began, in seconds since 1970.
    pub started: f64,
    /// Images of the listing so far, those of earlier runs included.
    pub planned: AtomicU64,
    /// Whether those are all.
    all_planned: AtomicBool,
    pub samples: AtomicU64,
    pub views: AtomicU64,
    pub payload_bytes: AtomicU64,
    pub shards: AtomicU64,
    rejected: Mutex<BTreeMap<&'static str, u64>>,
    /// Looks at the source by a watch.
    pub scans: AtomicU64,
    /// Images that the last look has found and left for a later one.
    left_for_later: AtomicU64,
    line: Mutex<Line>,
    /// The most that the tokenizer was ever thought to have used, in ns.
    tokenize_ns: AtomicU64,
}

/// Where the present line began.
#[derive(Clone, Copy, Debug)]
struct Line {
    /// Images of earlier runs, or rounds.
    already: u64,
    /// What the process had dealt with before.
    before: u64,
    began: f64,
}

impl Tally {
    pub fn start() -> Self {
        let started = unix_now();
        Self {
            stages: Stages::start(),
            started,
            planned: AtomicU64::new(0),
            all_planned: AtomicBool::new(false),
            samples: AtomicU64::new(0),
            views: AtomicU64::new(0),
            payload_bytes: AtomicU64::new(0),
            shards: AtomicU64::new(0),
            rejected: Mutex::new(REASONS.iter().map(|reason| (*reason, 0)).collect()),
            scans: AtomicU64::new(0),
            left_for_later: AtomicU64::new(0),
            line: Mutex::new(Line { already: 0, before: 0, began: started }),
            tokenize_ns: AtomicU64::new(0),
        }
    }

    /// Processor seconds by stage, none of which ever falls: a stage tells its time when it is done with an image, and until
    /// then what is left over for the tokenizer is too much.
    pub fn cpu_seconds(&self) -> CpuSeconds {
        let mut seconds = self.stages.seconds();
        let ns = (seconds.tokenize * 1e9) as u64;
        seconds.tokenize = self.tokenize_ns.fetch_max(ns, Relaxed).max(ns) as f64 / 1e9;
        seconds
    }

    /// A line begins behind `already` images.
    pub fn line_begins(&self, already: u64) {
        let line = Line { already, before: self.dealt_with(), began: unix_now() };
        *self.line.lock().unwrap_or_else(PoisonError::into_inner) = line;
        self.planned.store(already, Relaxed);
        self.left_for_later.store(0, Relaxed);
    }

    /// The listing has this many images so far, those of earlier runs included.
    pub fn listed(&self, images: u64) {
        self.planned.fetch_max(images, Relaxed);
    }

    /// A look found an image that is packed now, or one that is left for later.
    pub fn found(&self, now: bool) {
        let counter = if now { &self.planned } else { &self.left_for_later };
        counter.fetch_add(1, Relaxed);
    }

    /// Images listed so far, those of earlier runs included, and whether that is all.
    pub fn listing(&self) -> (u64, bool) {
        (self.planned.load(Relaxed), self.all_planned.load(Relaxed))
    }

    /// The listing's end is known.
    pub fn listed_all(&self) {
        self.all_planned.store(true, Relaxed);
    }

    /// An image was packed, with so many views.
    pub fn packed(&self, views: u32, payload_bytes: usize) {
        self.samples.fetch_add(1, Relaxed);
        self.views.fetch_add(views.into(), Relaxed);
        self.payload_bytes.fetch_add(payload_bytes as u64, Relaxed);
    }

    /// Shards were finished.
    pub fn published(&self, shards: usize) {
        self.shards.fetch_add(shards as u64, Relaxed);
    }

    /// An image was kept out.
    pub fn rejected(&self, reason: &'static str) {
        *self.rejected.lock().unwrap_or_else(PoisonError::into_inner).entry(reason).or_default() += 1;
    }

    /// Images kept out, by reason; all of [`REASONS`] are there.
    pub fn rejections(&self) -> BTreeMap<&'static str, u64> {
        self.rejected.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Images packed or kept out by this process.
    fn dealt_with(&self) -> u64 {
        self.samples.load(Relaxed) + self.rejections().values().sum::<u64>()
    }

    /// Images packed or kept out, those of earlier runs included.
    fn done(&self) -> (u64, Line) {
        let line = *self.line.lock().unwrap_or_else(PoisonError::into_inner);
        (line.already + self.dealt_with().saturating_sub(line.before), line)
    }

    /// Images that a watch knows of and has not packed.
    pub fn pending(&self) -> u64 {
        self.planned.load(Relaxed).saturating_sub(self.done().0) + self.left_for_later.load(Relaxed)
    }

    /// The share of the listing that is done, and the seconds to its end at this line's average speed; 0 as long as the
    /// listing's end, or the speed, is not known.
    pub fn progress(&self) -> (f64, f64) {
        let ((planned, all), (done, line)) = (self.listing(), self.done());
        if !all || planned == 0 {
            return (0.0, 0.0);
        }
        let (here, left) = (done.saturating_sub(line.already), planned.saturating_sub(done));
        let eta =
            if here == 0 { 0.0 } else { left as f64 * (unix_now() - line.began).max(0.0) / here as f64 };
        ((done as f64 / planned as f64).min(1.0), eta)
    }
}

/// Seconds since 1970.
pub fn unix_now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_told_once_the_listing_ends_and_counts_what_earlier_runs_did() {
        let tally = Tally::start();
        tally.line_begins(4);
        tally.listed(8);
        tally.packed(2, 100);
        tally.rejected("truncated");
        assert_eq!(tally.progress(), (0.0, 0.0), "8 may not be all");
        tally.listed_all();
        tally.line.lock().unwrap().began -= 10.0;
        let (ratio, eta) = tally.progress();
        assert!((ratio - 0.75).abs() < 1e-9 && (eta - 10.0).abs() < 0.5, "{ratio} {eta}");
        assert_eq!((tally.views.load(Relaxed), tally.rejections()["truncated"]), (2, 1));
    }

    #[test]
    fn a_watch_knows_what_is_pending_round_by_round() {
        let tally = Tally::start();
        tally.line_begins(0);
        for now in [true, true, false] {
            tally.found(now);
        }
        assert_eq!(tally.pending(), 3);
        tally.packed(1, 1);
        tally.packed(1, 1);
        assert_eq!(tally.pending(), 1, "one is still being written");
        tally.listed_all();
        assert!((tally.progress().0 - 1.0).abs() < 1e-9);
        tally.line_begins(2);
        tally.found(true);
        tally.rejected("corrupt");
        assert_eq!(tally.pending(), 0);
    }
}
