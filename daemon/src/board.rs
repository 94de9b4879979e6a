//! The notice board: what the supervisor knows, read by every door (page, API, metrics, status, progress line).

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

use crate::feed::{EVENTS, Feed, Kind};
use crate::history::History;
use crate::metrics::Metrics;
use crate::wire::{Planned, Sample};

/// Speed is taken over this stretch: long enough to be calm, short enough to show a stall.
const SPEED_WINDOW: Duration = Duration::from_secs(20);

/// Readiness allows a step this many times the mean step's time...
const READY_STEPS: f64 = 20.0;

/// ... but, unless [`Board::stalls_after`] says so, never less than this.
pub const READY_SECONDS: u64 = 60;

/// What the supervisor is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// The worker makes its plan, opens the shards, loads the checkpoint.
    Starting,
    /// The worker trains.
    Running,
    /// The worker stands still because somebody asked for it; it can be told to go on.
    Paused,
    /// The worker died; the next one starts after a pause.
    Restarting,
    /// The worker has been asked to save and end.
    Stopping,
    /// All steps are done and saved.
    Finished,
    /// Ended because somebody asked for it, saved.
    Stopped,
    /// Ended without being asked.
    Failed,
}

impl State {
    /// All states, in the order of a run's life.
    pub const ALL: [State; 8] = [
        State::Starting,
        State::Running,
        State::Paused,
        State::Restarting,
        State::Stopping,
        State::Finished,
        State::Stopped,
        State::Failed,
    ];

    /// Whether nothing more comes.
    pub fn is_over(self) -> bool {
        matches!(self, State::Finished | State::Stopped | State::Failed)
    }

    /// The word for logs, labels and JSON.
    pub fn word(self) -> &'static str {
        match self {
            State::Starting => "starting",
            State::Running => "running",
            State::Paused => "paused",
            State::Restarting => "restarting",
            State::Stopping => "stopping",
            State::Finished => "finished",
            State::Stopped => "stopped",
            State::Failed => "failed",
        }
    }
}

/// Something worth telling about.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Event {
    /// Seconds since 1970.
    pub at: f64,
    /// A sentence.
    pub text: String,
}

/// Everything on the board; `/api/v1/run` is its JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Facts {
    /// What the supervisor is doing.
    pub state: State,
    /// The run directory.
    pub run: String,
    /// The recipe's name.
    pub recipe: String,
    /// The shards' directory.
    pub shards: String,
    /// `cpu` or `cuda`.
    pub device: String,
    /// Where the supervisor listens, as `http://…`.
    pub url: String,
    /// Version of the binary.
    pub version: String,
    /// Process id of the supervisor.
    pub pid: u32,
    /// Process id of the worker, while there is one.
    pub worker_pid: Option<u32>,
    /// When the supervisor started, seconds since 1970.
    pub started_at: f64,
    /// The plan, once the worker has made it.
    pub plan: Option<Planned>,
    /// The worker's last report. How long a rank is at its stage goes on growing while the worker is silent.
    pub last: Sample,
    /// When that came, seconds since 1970; a living worker reports several times a second.
    #[serde(default)]
    pub reported_at: Option<f64>,
    /// Samples per second over the last stretch of training.
    pub samples_per_second: f64,
    /// Seconds until the last step at that speed; `None` while it is not known.
    pub eta_seconds: Option<f64>,
    /// Worker restarts by cause.
    pub restarts: BTreeMap<String, u64>,
    /// Why the worker died or the run failed, the last time it did.
    pub error: Option<String>,
    /// The last events, oldest first.
    pub events: VecDeque<Event>,
}

/// The board as the API shows it.
#[derive(Clone, Debug, Serialize)]
pub struct Shown {
    /// Everything on it.
    #[serde(flatten)]
    pub facts: Facts,
    /// Whether training makes progress, as `/readyz` says.
    pub ready: bool,
    /// The sentence that says so or why not.
    pub readiness: String,
    /// What the seconds of the supervisor's life went for, by class.
    pub time_seconds: BTreeMap<&'static str, f64>,
}

/// The board. Writers hold its lock for microseconds, and training never waits for it: the worker is another process.
#[derive(Debug)]
pub struct Board {
    facts: Mutex<Facts>,
    speed: Mutex<Speed>,
    changes: AtomicU64,
    least_seconds: f64,
    /// The same facts as Prometheus wants them.
    pub metrics: Metrics,
    /// What happens, for those who watch.
    pub feed: Arc<Feed>,
    /// The course of the run.
    pub history: History,
}

impl Board {
    /// A board that shows a supervisor about to start its first worker.
    pub fn new(facts: Facts, metrics: Metrics) -> Board {
        metrics.set_run(&facts.run, &facts.recipe, &facts.device);
        metrics.set_state(facts.state);
        Board {
            facts: Mutex::new(facts),
            speed: Mutex::new(Speed::default()),
            changes: AtomicU64::new(1),
            least_seconds: READY_SECONDS as f64,
            metrics,
            feed: Arc::default(),
            history: History::default(),
        }
    }

    /// The same board, with what the screen shows in its feed.
    pub fn hearing(self, feed: Arc<Feed>) -> Board {
        Board { feed, ..self }
    }

    /// The same board, going on with this history.
    pub fn remembering(self, history: History) -> Board {
        Board { history, ..self }
    }

    /// The same board, which calls a run stalled after this long without a step, or twenty mean steps if that is more.
    pub fn stalls_after(self, least: Duration) -> Board {
        Board { least_seconds: least.as_secs_f64(), ..self }
    }

    /// A copy of everything, as it is now.
    pub fn facts(&self) -> Facts {
        let mut facts = self.lock().clone();
        let silence = match (facts.worker_pid, facts.reported_at) {
            (Some(_), Some(at)) => (now() - at).max(0.0),
            _ => 0.0,
        };
        for rank in &mut facts.last.ranks {
            rank.stage_seconds += silence;
        }
        facts
    }

    /// A copy of everything, and whether training makes progress.
    pub fn shown(&self) -> Shown {
        let (ready, readiness) = self.ready();
        Shown { facts: self.facts(), ready, readiness, time_seconds: self.metrics.time_seconds() }
    }

    /// Whether the run is over.
    pub fn is_over(&self) -> bool {
        self.lock().state.is_over()
    }

    /// A number that is another one whenever the board has changed.
    pub fn changes(&self) -> u64 {
        self.changes.load(Relaxed)
    }

    /// The supervisor does something else now.
    pub fn set_state(&self, state: State) {
        let mut facts = self.change();
        facts.state = state;
        self.metrics.set_state(state);
        if state.is_over() {
            let last = facts.last.clone();
            drop(facts);
            self.note(&last, f64::NAN, true);
        }
    }

    /// Adds a sentence to the events.
    pub fn tell(&self, text: impl Into<String>) {
        let event = Event { at: now(), text: text.into() };
        if let Ok(json) = serde_json::to_string(&event) {
            self.feed.add(Kind::Event, json.into());
        }
        let mut facts = self.change();
        if facts.events.len() == EVENTS {
            facts.events.pop_front();
        }
        facts.events.push_back(event);
    }

    /// A worker was started; its counts start at 0.
    pub fn worker_started(&self, pid: u32) {
        let mut facts = self.change();
        facts.worker_pid = Some(pid);
        facts.reported_at = None;
        self.metrics.worker_started(pid);
        drop(facts);
        *self.speed_lock() = Speed::default();
    }

    /// The worker trains, from this step on; what came after it comes again.
    pub fn resumed(&self, step: u64) {
        self.history.go_back_to(step);
    }

    /// The worker is gone; `restart` names the cause when another one will be started.
    pub fn worker_gone(&self, error: Option<&str>, restart: Option<&'static str>) {
        let mut facts = self.change();
        facts.worker_pid = None;
        facts.samples_per_second = 0.0;
        facts.eta_seconds = None;
        if let Some(error) = error {
            facts.error = Some(error.to_owned());
        }
        if let Some(cause) = restart {
            *facts.restarts.entry(cause.to_owned()).or_default() += 1;
            self.metrics.restarted(cause);
        }
        self.metrics.worker_gone(restart.is_some());
    }

    /// The worker has a plan.
    pub fn planned(&self, plan: Planned) {
        let mut facts = self.change();
        self.metrics.planned(&plan);
        facts.plan = Some(plan);
    }

    /// The worker reports.
    pub fn sample(&self, sample: Sample) {
        let rate = self.speed_lock().add(Instant::now(), sample.samples);
        self.note(&sample, rate, false);
        let mut facts = self.change();
        facts.samples_per_second = rate;
        facts.eta_seconds = facts
            .plan
            .as_ref()
            .filter(|_| rate > 0.0)
            .map(|plan| plan.steps.saturating_sub(sample.step) as f64 * plan.global_batch as f64 / rate);
        self.metrics.sample(&sample, rate, facts.eta_seconds);
        facts.reported_at = Some(now());
        facts.last = sample.without_times();
    }

    /// Adds to the history what is far enough from its last point, or `anyway`.
    fn note(&self, sample: &Sample, samples_per_second: f64, anyway: bool) {
        if let Some(point) = self.history.add(sample, samples_per_second, anyway)
            && let Ok(json) = serde_json::to_string(&point)
        {
            self.feed.add(Kind::Point, json.into());
        }
    }

    /// Whether training makes progress, and the sentence that says so or why not.
    pub fn ready(&self) -> (bool, String) {
        let facts = self.lock();
        if facts.state != State::Running {
            return (false, format!("the run is {}", facts.state.word()));
        }
        let Some(last) = facts.last.last_step_at else {
            return (false, "no step is done yet".to_owned());
        };
        let age = (now() - last).max(0.0);
        let step_seconds = match &facts.plan {
            Some(plan) if facts.samples_per_second > 0.0 => {
                plan.global_batch as f64 / facts.samples_per_second
            }
            _ => 0.0,
        };
        let limit = (step_seconds * READY_STEPS).max(self.least_seconds);
        let ready = age <= limit;
        let verb = if ready { "training" } else { "stalled" };
        (ready, format!("{verb}: step {} ended {age:.1} s ago, the limit is {limit:.0} s", facts.last.step))
    }

    /// Locks the facts to change them. Counted under the lock: whoever sees the new number waits for the new facts.
    fn change(&self) -> MutexGuard<'_, Facts> {
        let facts = self.lock();
        self.changes.fetch_add(1, Relaxed);
        facts
    }

    fn lock(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn speed_lock(&self) -> MutexGuard<'_, Speed> {
        self.speed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Seconds since 1970.
pub fn now() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// Samples per second over a sliding stretch of one worker's life.
#[derive(Debug, Default)]
struct Speed {
    seen: VecDeque<(Instant, u64)>,
}

impl Speed {
    fn add(&mut self, at: Instant, samples: u64) -> f64 {
        self.seen.push_back((at, samples));
        // Keep one point older than the window, so that it is always covered whole.
        while self.seen.len() > 2 && at.duration_since(self.seen[1].0) >= SPEED_WINDOW {
            self.seen.pop_front();
        }
        let (since, from) = self.seen[0];
        let seconds = at.duration_since(since).as_secs_f64();
        if seconds > 0.0 { samples.saturating_sub(from) as f64 / seconds } else { 0.0 }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn board() -> Board {
        let facts = Facts {
            state: State::Starting,
            run: "runs/x".into(),
            recipe: "pretrain-tiny-cpu".into(),
            shards: "photos.shards".into(),
            device: "cpu".into(),
            url: "http://127.0.0.1:9777".into(),
            version: "0".into(),
            pid: 1,
            worker_pid: None,
            started_at: now(),
            plan: None,
            last: Sample::default(),
            reported_at: None,
            samples_per_second: 0.0,
            eta_seconds: None,
            restarts: BTreeMap::new(),
            error: None,
            events: VecDeque::new(),
        };
        Board::new(facts, Metrics::new(0..2).unwrap())
    }

    #[test]
    fn readiness_follows_the_age_of_the_last_step() {
        let board = board();
        assert_eq!(board.ready(), (false, "the run is starting".to_owned()));
        board.set_state(State::Paused);
        assert_eq!(board.ready(), (false, "the run is paused".to_owned()));
        board.set_state(State::Running);
        assert_eq!(board.ready(), (false, "no step is done yet".to_owned()));
        board.sample(Sample { step: 3, last_step_at: Some(now() - 1.0), ..Sample::default() });
        assert!(board.ready().0, "{:?}", board.ready());
        board.sample(Sample { step: 3, last_step_at: Some(now() - 100.0), ..Sample::default() });
        let (ready, why) = board.ready();
        assert!(!ready && why.starts_with("stalled: step 3"), "{why}");
    }

    #[test]
    fn speed_is_that_of_the_last_stretch() {
        let start = Instant::now();
        let mut speed = Speed::default();
        assert_eq!(speed.add(start, 0), 0.0);
        assert_eq!(speed.add(start + Duration::from_secs(10), 1000), 100.0);
        for second in 11..=60 {
            speed.add(start + Duration::from_secs(second), 1000);
        }
        assert_eq!(speed.add(start + Duration::from_secs(61), 1000), 0.0, "a stall shows");
    }

    #[test]
    fn events_are_bounded() {
        let board = board();
        for number in 0..200 {
            board.tell(number.to_string());
        }
        let events = board.facts().events;
        assert_eq!((events.len(), events.back().unwrap().text.as_str()), (EVENTS, "199"));
    }
}
