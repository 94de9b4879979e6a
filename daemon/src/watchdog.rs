//! Notices a worker that hangs: no step for too long, or no report, whatever the reason.
//!
//! A worker that has not yet done a step starts up, and has a limit of its own: it opens the shards, builds the model,
//! reads a checkpoint. A worker that stands still because somebody asked need not step, but must go on reporting.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use crate::screen::duration;
use crate::wire::{RankSample, Sample};

/// Two looks further apart than this: the supervisor itself was asleep, and so it has seen nothing.
const OVERSLEPT: Duration = Duration::from_secs(5);

/// Reports come some times a second; a gap of this length is worth telling.
const SILENCE: Duration = Duration::from_secs(2);

/// Longest times without a sign of life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// From the worker's start to its first step.
    pub start: Duration,
    /// From step to step.
    pub step: Duration,
}

/// What is known of one worker's progress.
#[derive(Debug)]
pub struct Watchdog {
    pid: u32,
    steps: u64,
    /// When the last step was heard of, or the worker was started.
    moved: Instant,
    /// When the worker last reported.
    heard: Option<Instant>,
    looked: Instant,
    ranks: Vec<RankSample>,
}

impl Watchdog {
    /// For a worker that was started at `now`.
    pub fn new(pid: u32, now: Instant) -> Watchdog {
        Watchdog { pid, steps: 0, moved: now, heard: None, looked: now, ranks: Vec::new() }
    }

    /// The worker reports.
    pub fn hear(&mut self, sample: &Sample, now: Instant) {
        let paused = !sample.ranks.is_empty() && sample.ranks.iter().all(|rank| rank.stage == "paused");
        if sample.steps_done > self.steps || paused {
            self.moved = now;
        }
        self.steps = sample.steps_done;
        self.heard = Some(now);
        self.ranks = sample.ranks.clone();
    }

    /// What to say of a worker that hangs; `None`: it does not, as far as can be told.
    pub fn look(&mut self, limits: Limits, now: Instant) -> Option<String> {
        let asleep = now.duration_since(self.looked);
        self.looked = now;
        if asleep > OVERSLEPT {
            // Stopped, or the machine was suspended: what the worker did meanwhile is yet to be heard.
            self.moved += asleep;
            self.heard = self.heard.map(|heard| heard + asleep);
        }
        let (limit, doing) = match self.steps {
            0 => (limits.start, "the worker has done no step"),
            _ => (limits.step, "no step was done"),
        };
        let still = now.saturating_duration_since(self.moved);
        if still <= limit {
            return None;
        }
        let option = if self.steps == 0 { "--start-timeout" } else { "--hang-timeout" };
        let silent = self.heard.map(|heard| now.saturating_duration_since(heard));
        let mut message = format!(
            "{doing} for {}, {option} allows {}: {}",
            duration(still.as_secs_f64()),
            duration(limit.as_secs_f64()),
            stages(&self.ranks, silent.unwrap_or_default().as_secs_f64())
        );
        if let Some(silent) = silent.filter(|silent| *silent > SILENCE) {
            message.push_str(&format!("; its reports ended {} ago", duration(silent.as_secs_f64())));
        }
        if let Some(kernel) = process_state(self.pid) {
            message.push_str(&format!("; the kernel says that its process {kernel}"));
        }
        Some(message)
    }
}

/// Which ranks are in which stage, those that are there longest first; others usually wait for them. The report is `old`
/// seconds old.
fn stages(ranks: &[RankSample], old: f64) -> String {
    let mut stages: BTreeMap<&str, (f64, Vec<String>)> = BTreeMap::new();
    for rank in ranks {
        let (seconds, who) = stages.entry(&rank.stage).or_default();
        *seconds = seconds.max(rank.stage_seconds + old);
        who.push(rank.rank.to_string());
    }
    let mut stages: Vec<_> = stages.into_iter().collect();
    stages.sort_by(|(_, (left, _)), (_, (right, _))| right.total_cmp(left));
    let told: Vec<String> = stages
        .into_iter()
        .map(|(stage, (seconds, who))| {
            let (noun, verb) = if who.len() == 1 { ("rank", "is") } else { ("ranks", "are") };
            format!(
                "{noun} {} {verb} in stage {} for {}",
                who.join(", "),
                explained(stage),
                duration(seconds)
            )
        })
        .collect();
    if told.is_empty() { "it had not reported yet, stage start".to_owned() } else { told.join("; ") }
}

/// The trainer's word for a stage, and what people call it.
fn explained(stage: &str) -> String {
    let more = match stage {
        "data" => " (waiting for a batch)",
        "step" => " (forward, backward and all-reduce)",
        "agree" => " (all-reduce)",
        "update" => " (the optimizer)",
        _ => "",
    };
    format!("{stage}{more}")
}

/// What the kernel says a process is doing, where it is worth telling.
fn process_state(pid: u32) -> Option<&'static str> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    match stat[stat.rfind(')')? + 1..].trim_start().chars().next()? {
        'T' | 't' => Some("is stopped (SIGSTOP, or a debugger)"),
        'D' => Some("waits for a device or a file system"),
        'Z' | 'X' => Some("is dead"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { start: Duration::from_secs(100), step: Duration::from_secs(10) };

    fn sample(steps_done: u64, stages: &[(&str, f64)]) -> Sample {
        let ranks = stages.iter().enumerate().map(|(rank, (stage, stage_seconds))| RankSample {
            rank: rank as u32,
            stage: (*stage).to_owned(),
            stage_seconds: *stage_seconds,
            ..Default::default()
        });
        Sample { steps_done, ranks: ranks.collect(), ..Sample::default() }
    }

    /// A watchdog that looks every second; the report of each second is what `report` says.
    #[track_caller]
    fn watch(seconds: u64, report: impl Fn(u64) -> Option<Sample>) -> Option<(u64, String)> {
        let begun = Instant::now();
        let mut dog = Watchdog::new(u32::MAX, begun);
        (1..=seconds).find_map(|second| {
            let now = begun + Duration::from_secs(second);
            if let Some(sample) = report(second) {
                dog.hear(&sample, now);
            }
            dog.look(LIMITS, now).map(|message| (second, message))
        })
    }

    #[test]
    fn a_worker_that_steps_is_left_alone_and_one_that_stops_stepping_is_named() {
        assert_eq!(watch(1000, |second| Some(sample(second / 8, &[("step", 1.0)]))), None);
        let stuck =
            |second: u64| Some(sample(second.min(20), &[("step", 9.0), ("data", 11.0), ("step", 8.0)]));
        let (when, message) = watch(1000, stuck).unwrap();
        assert_eq!(when, 31);
        assert!(message.starts_with("no step was done for 11 s, --hang-timeout allows 10 s: "), "{message}");
        let stages = "rank 1 is in stage data (waiting for a batch) for 11 s; ranks 0, 2 are in stage step";
        assert!(message.contains(stages), "{message}");
        assert!(!message.contains("reports ended"), "{message}");
    }

    #[test]
    fn a_worker_whose_reports_stop_is_a_hang_too() {
        let (when, message) =
            watch(1000, |second| (second <= 20).then(|| sample(second, &[("agree", 0.0)]))).unwrap();
        assert_eq!(when, 31);
        assert!(message.contains("all-reduce) for 11 s; its reports ended 11 s ago"), "{message}");
    }

    #[test]
    fn starting_up_has_a_limit_of_its_own() {
        let (when, message) = watch(1000, |_| None).unwrap();
        assert_eq!(when, 101);
        assert!(message.contains("--start-timeout") && message.contains("stage start"), "{message}");
        assert_eq!(watch(99, |_| Some(sample(0, &[("start", 90.0)]))), None);
    }

    #[test]
    fn a_paused_worker_may_stand_still_but_not_fall_silent() {
        let paused = |second: u64| sample(second.min(5), &[("paused", second as f64), ("paused", 1.0)]);
        assert_eq!(watch(1000, |second| Some(paused(second))), None);
        let (when, _) = watch(1000, |second| (second < 500).then(|| paused(second))).unwrap();
        assert_eq!(when, 510);
    }

    #[test]
    fn a_supervisor_that_was_asleep_itself_blames_nobody() {
        let begun = Instant::now();
        let mut dog = Watchdog::new(u32::MAX, begun);
        dog.hear(&sample(3, &[("step", 0.1)]), begun);
        let woken = begun + Duration::from_secs(3600);
        assert_eq!(dog.look(LIMITS, woken), None);
        let later: Vec<Option<String>> =
            (1..=11).map(|second| dog.look(LIMITS, woken + Duration::from_secs(second))).collect();
        assert!(later[9].is_none() && later[10].is_some(), "it must still notice: {later:?}");
    }
}
