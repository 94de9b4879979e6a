//! What others may ask of a running trainer.
//!
//! Ranks look at the end of every step and agree on what they saw, so all of them act at the same step.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::stats::TrainStats;

/// How long the other ranks of a process may take to end when one has failed.
const LAST_RITES: Duration = Duration::from_secs(45);

/// Requests to a run; any thread may make them at any time, a signal handler too.
#[derive(Debug, Default)]
pub struct Control {
    stop: AtomicBool,
    checkpoint: AtomicBool,
    paused: AtomicBool,
    failed: OnceLock<(Instant, String)>,
}

impl Control {
    /// Nothing asked for.
    pub fn new() -> Control {
        Control::default()
    }

    /// Finish the step under way, publish a checkpoint, and return.
    pub fn stop(&self) {
        self.stop.store(true, Relaxed);
    }

    /// Publish a checkpoint after the step under way, and go on.
    pub fn checkpoint_now(&self) {
        self.checkpoint.store(true, Relaxed);
    }

    /// Stand still after the step under way, until `pause(false)` or [`Control::stop`].
    pub fn pause(&self, yes: bool) {
        self.paused.store(yes, Relaxed);
    }

    /// Whether a stop was asked for.
    pub fn stop_wanted(&self) -> bool {
        self.stop.load(Relaxed)
    }

    /// Whether a pause was asked for.
    pub fn pause_wanted(&self) -> bool {
        self.paused.load(Relaxed)
    }

    /// Why this process should end itself: a rank of it failed long ago, and others still don't come to their end.
    pub fn overdue(&self, stats: &TrainStats) -> Option<String> {
        self.failed_before(LAST_RITES, stats)
    }

    fn failed_before(&self, patience: Duration, stats: &TrainStats) -> Option<String> {
        let (_, why) = self.failed.get().filter(|(when, _)| when.elapsed() >= patience)?;
        let stage = |local: usize| {
            let (stage, seconds) = stats.stage(local);
            format!("rank {} is in stage {} for {seconds:.0} s", stats.ranks[local].rank, stage.name())
        };
        let stages: Vec<_> = (0..stats.ranks.len()).map(stage).collect();
        Some(format!("{why}; this process does not come to its end: {}", stages.join(", ")))
    }

    pub(crate) fn note_failure(&self, why: &str) {
        let _ = self.failed.set((Instant::now(), why.to_owned())); // the first counts
    }

    /// Whether a checkpoint was asked for; asking is over once somebody has looked.
    pub(crate) fn take_checkpoint(&self) -> bool {
        self.checkpoint.swap(false, Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Stage;

    #[test]
    fn a_failed_process_that_does_not_end_says_which_rank_holds_it() {
        let (control, stats) = (Control::new(), TrainStats::new(2..4));
        assert_eq!(control.failed_before(Duration::ZERO, &stats), None);
        stats.enter(1, Stage::Data);
        control.note_failure("rank 2: timed out");
        control.note_failure("rank 3: an echo");
        assert_eq!(control.overdue(&stats), None, "there is time left");
        let words = control.failed_before(Duration::ZERO, &stats).unwrap();
        assert!(words.starts_with("rank 2: timed out; this process does not come to its end: "), "{words}");
        assert!(words.ends_with("rank 3 is in stage data for 0 s"), "{words}");
    }
}
