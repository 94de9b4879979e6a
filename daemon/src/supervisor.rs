//! Keeps one run going: starts the worker, shows what it reports, replaces it when it dies, ends it when asked.
//!
//! One thread, one queue: signals, HTTP requests and the worker's reports all arrive as [`Event`]s, so no two of them
//! are ever handled at once.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use anyhow::Result;
use tracing::{error, info, warn};

use crate::board::{Board, State};
use crate::budget::Budget;
use crate::cause::Cause;
use crate::child::{Death, Worker};
use crate::notify::Notify;
use crate::rundir::Notice;
use crate::screen::{Progress, Screen};
use crate::settings::Settings;
use crate::watchdog::Watchdog;
use crate::wire::{FromWorker, Sample, ToWorker};

/// How often the supervisor looks up when nothing happens.
const TICK: Duration = Duration::from_millis(200);

/// How long a worker that has closed its pipe may take to be gone.
const LAST_BREATH: Duration = Duration::from_secs(10);

/// Something the supervisor acts on.
#[derive(Debug)]
pub enum Event {
    /// The worker reports.
    Report(FromWorker),
    /// The worker printed a line.
    Output(String),
    /// The worker has closed its pipe: it is dead or about to be.
    Silent,
    /// Somebody wants the run saved and ended: a signal, or the API.
    Stop {
        /// Who, for the log.
        who: &'static str,
    },
    /// Somebody wants a checkpoint now.
    Checkpoint,
    /// Somebody wants training to stand still (true) or to go on.
    Pause(bool),
    /// Somebody wants the settings file read and the log opened again.
    Reload,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Ending {
    /// All steps are done and saved.
    Finished,
    /// It was asked to stop and has saved everything.
    Stopped,
    /// It was asked to stop at once, or could not save in time: the last published checkpoint stands.
    Cut,
    /// It could not go on.
    Failed(String),
}

/// How one worker's life ended.
enum Life {
    /// The run is over.
    Over(Ending),
    /// The worker died.
    Died(Death),
}

/// What has been asked of the run so far.
#[derive(Default)]
struct Asked {
    stop: Option<Instant>,
    now: bool,
    paused: bool,
}

/// The supervisor of one run.
pub struct Supervisor {
    settings: Settings,
    board: Arc<Board>,
    screen: Screen,
    progress: Progress,
    notice: Notice,
    events: Receiver<Event>,
    sender: Sender<Event>,
    notify: Notify,
    budget: Budget,
    asked: Asked,
    plan_shown: bool,
    /// Some worker has begun to train.
    trained: bool,
}

impl Supervisor {
    /// A supervisor that shows what it does on `board` and `screen`, and writes `notice` into the run directory.
    pub fn new(
        settings: Settings,
        board: Arc<Board>,
        screen: Screen,
        notice: Notice,
        (sender, events): (Sender<Event>, Receiver<Event>),
    ) -> Supervisor {
        let progress = Progress::new(screen.clone());
        Supervisor {
            settings,
            board,
            screen,
            progress,
            notice,
            events,
            sender,
            notify: Notify::from_env(),
            budget: Budget::default(),
            asked: Asked::default(),
            plan_shown: false,
            trained: false,
        }
    }

    /// Runs to the end of the run; the worker lives no longer than the thread that calls this.
    ///
    /// # Errors
    /// The system's, for a worker that can't be waited for.
    pub fn run(mut self) -> Result<Ending> {
        let ending = loop {
            self.enter(State::Starting);
            match self.start()? {
                Life::Over(ending) => break ending,
                Life::Died(Death { message, .. }) if self.asked.stop.is_some() => {
                    self.board.worker_gone(Some(&message), None);
                    warn!("The worker ended before it had saved: {message}.");
                    break Ending::Cut;
                }
                Life::Died(death) => {
                    if let Some(ending) = self.bury(death) {
                        break ending;
                    }
                }
            }
        };
        self.progress.end();
        self.notice.error = match &ending {
            Ending::Failed(message) => Some(message.clone()),
            _ => None,
        };
        if ending == Ending::Cut {
            self.notice.unsaved_steps = Some(self.unsaved_steps());
        }
        if matches!(ending, Ending::Finished | Ending::Stopped) {
            self.notify.ready(); // A run that was done already has never trained.
        }
        self.notify.stopping();
        self.enter(match ending {
            Ending::Finished => State::Finished,
            Ending::Stopped | Ending::Cut => State::Stopped,
            Ending::Failed(_) => State::Failed,
        });
        Ok(ending)
    }

    /// One worker from its start to its end.
    fn start(&mut self) -> Result<Life> {
        match Worker::start(&self.settings.job, &self.settings.live.log, &self.sender) {
            Ok(worker) => {
                self.board.worker_started(worker.pid());
                self.attend(worker)
            }
            // Out of processes or memory, most likely: the weather, as with a worker that died.
            Err(error) => Ok(Life::Died(Death { cause: Cause::Error, message: format!("{error:#}") })),
        }
    }

    /// Waits until a dead worker may be replaced; an ending: it may not be.
    fn bury(&mut self, Death { cause, message }: Death) -> Option<Ending> {
        let allowed = self.settings.live.restarts;
        let Some(pause) = self.budget.spend(Instant::now(), allowed) else {
            self.board.worker_gone(Some(&message), None);
            return Some(Ending::Failed(match allowed {
                0 => format!("{message}; --restarts 0 allows no other worker"),
                _ => format!(
                    "the worker died {} times without a new checkpoint in between, and --restarts {allowed} allows no \
                     other; the last time: {message}",
                    allowed + 1
                ),
            }));
        };
        self.board.worker_gone(Some(&message), Some(cause.word()));
        self.board.tell(format!("{message}; restarting in {} s", pause.as_secs()));
        error!(
            cause = cause.word(),
            "Restarting from the newest checkpoint in {} s: {message}.",
            pause.as_secs()
        );
        self.enter(State::Restarting);
        // What the dead worker did after its last checkpoint is lost.
        self.rest(pause).then(|| if self.unsaved_steps() > 0 { Ending::Cut } else { Ending::Stopped })
    }

    /// Hears one worker out.
    fn attend(&mut self, mut worker: Worker) -> Result<Life> {
        let mut verdict = None;
        let mut hang = None;
        let mut watchdog = Watchdog::new(worker.pid(), Instant::now());
        if self.asked.stop.is_some() {
            worker.ask(&ToWorker::Stop);
        }
        if self.asked.paused {
            worker.ask(&ToWorker::Pause { paused: true }); // It stands still after its first step.
        }
        loop {
            match self.events.recv_timeout(TICK) {
                Ok(Event::Report(FromWorker::Planned(plan))) => {
                    if !self.plan_shown {
                        self.plan_shown = true;
                        self.screen.print(&plan.text);
                    }
                    self.board.planned(*plan);
                }
                Ok(Event::Report(FromWorker::Started { resumed_step })) => self.started(resumed_step),
                Ok(Event::Report(FromWorker::Sample(sample))) => {
                    watchdog.hear(&sample, Instant::now());
                    self.sample(*sample);
                }
                Ok(Event::Report(report)) => verdict = Some(report),
                Ok(Event::Output(line)) => self.screen.print(&line),
                Ok(Event::Silent) => break,
                Ok(Event::Stop { who }) => self.stop(who, &mut worker),
                Ok(Event::Checkpoint) => {
                    self.board.tell("checkpoint asked for");
                    worker.ask(&ToWorker::Checkpoint);
                }
                Ok(Event::Pause(paused)) => {
                    worker.ask(&ToWorker::Pause { paused });
                    self.pause(paused);
                }
                Ok(Event::Reload) => {
                    self.reload();
                    worker.ask(&ToWorker::Log { filter: self.settings.live.log.clone() });
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            let now = Instant::now();
            if self.asked.stop.is_some() {
                self.hurry(&mut worker);
            } else if hang.is_none()
                && let Some(message) = watchdog.look(self.settings.live.limits, now)
            {
                error!("The worker hangs, ending it: {message}.");
                hang = Some(message);
                worker.kill();
            }
            self.turn(now);
        }
        let death = worker.wait(LAST_BREATH)?;
        self.drain();
        Ok(match (verdict, hang) {
            (Some(FromWorker::Finished { complete, .. }), _) => {
                self.board.worker_gone(None, None);
                Life::Over(if complete { Ending::Finished } else { Ending::Stopped })
            }
            (_, Some(message)) => Life::Died(Death { cause: Cause::Hang, message }),
            // What fails before anything was trained fails again; later it may be the weather, and is tried again.
            (Some(FromWorker::Failed { permanent, started, message, .. }), _)
                if permanent || !started && !self.trained =>
            {
                self.board.worker_gone(Some(&message), None);
                Life::Over(Ending::Failed(message))
            }
            (Some(FromWorker::Failed { cause, message, .. }), _) => Life::Died(Death { cause, message }),
            _ => Life::Died(death),
        })
    }

    /// Takes a report of the state of training.
    fn sample(&mut self, sample: Sample) {
        if sample.checkpoint.saved > 0 {
            self.budget.progress();
        }
        let before = self.board.facts().last.checkpoint.step;
        if let Some(step) = sample.checkpoint.step.filter(|step| Some(*step) != before) {
            self.board.tell(format!("checkpoint of step {step} published"));
        }
        if sample.last_step_at.is_some() {
            self.notify.ready();
        }
        self.see_pause(&sample);
        self.board.sample(sample);
        self.progress.show(&self.board.facts());
    }

    /// Ends a worker that has been asked to save and takes too long.
    fn hurry(&mut self, worker: &mut Worker) {
        let limit = self.settings.live.stop_timeout;
        if self.asked.stop.is_some_and(|at| at.elapsed() > limit) && !self.asked.now {
            self.asked.now = true;
            error!("The worker has not saved within {} s; ending it.", limit.as_secs());
            worker.kill();
        }
    }

    /// What is due now and then, whatever happens.
    fn turn(&mut self, now: Instant) {
        let waiting = self.asked.stop.is_some() || !self.notify.is_ready();
        self.notify.turn(now, waiting, || self.board.facts());
    }

    /// Prints what the worker said last, so that its death comes after its words.
    fn drain(&mut self) {
        let left: Vec<Event> = self.events.try_iter().collect();
        for event in left {
            match event {
                Event::Output(line) => self.screen.print(&line),
                Event::Stop { .. } => self.asked.stop = self.asked.stop.or(Some(Instant::now())),
                Event::Pause(paused) => self.asked.paused = paused,
                Event::Reload => self.reload(),
                _ => {}
            }
        }
    }

    fn stop(&mut self, who: &'static str, worker: &mut Worker) {
        if self.asked.stop.is_none() {
            self.asked.stop = Some(Instant::now());
            info!(
                "Stopping, asked by {who}: the worker saves a checkpoint first; ask again to stop at once."
            );
            self.board.tell(format!("stop asked by {who}"));
            worker.ask(&ToWorker::Stop);
            self.notify.stopping();
            self.enter(State::Stopping);
        } else if who != "the API" && !self.asked.now {
            // A second request over HTTP may be a nervous client; a second signal is meant.
            self.asked.now = true;
            warn!("Stopping at once, asked by {who}: the last published checkpoint stands.");
            worker.kill();
        }
    }

    /// Takes a request to stand still or to go on; the worker has been told.
    fn pause(&mut self, paused: bool) {
        if self.asked.paused != paused {
            info!("{}", if paused { "Pause asked for." } else { "Going on after a pause." });
            self.board.tell(if paused { "pause asked for" } else { "going on after a pause" });
        }
        self.asked.paused = paused;
        if !paused && self.notice.state == State::Paused {
            self.enter(State::Running);
        }
    }

    /// The run is paused once every rank stands still, not when somebody asks for it.
    fn see_pause(&mut self, sample: &Sample) {
        let still = !sample.ranks.is_empty() && sample.ranks.iter().all(|rank| rank.stage == "paused");
        if self.asked.paused && still && self.notice.state == State::Running {
            info!("Paused after step {}.", sample.step);
            self.board.tell(format!("paused after step {}", sample.step));
            self.enter(State::Paused);
        }
    }

    /// Reads the settings file and opens the log again; what is broken leaves the old settings in force.
    fn reload(&mut self) {
        self.notify.reloading();
        if let Err(error) = self.screen.reopen() {
            error!("The log goes on in the old file: {error:#}.");
        }
        let read = self.settings.source.read().and_then(|live| {
            self.screen.refilter(&live.log)?;
            Ok(live)
        });
        match read {
            Ok(live) => {
                let changes = self.settings.live.changes(&live);
                let what = match (&self.settings.source.file, changes.is_empty()) {
                    (None, _) => "there is no settings file, give one with --config".to_owned(),
                    (Some(file), true) => format!("{} changes nothing", file.display()),
                    (Some(file), false) => format!("{}: {changes}", file.display()),
                };
                self.settings.live = live;
                info!("Log opened and settings read again: {what}.");
                self.board.tell(format!("settings read again: {what}"));
            }
            Err(error) => {
                error!("The settings stay as they were: {error:#}.");
                self.board.tell(format!("settings could not be read again: {error:#}"));
            }
        }
        self.notify.reloaded();
    }

    /// Waits before a restart; true: it was asked to stop instead.
    fn rest(&mut self, pause: Duration) -> bool {
        let until = Instant::now() + pause;
        while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            match self.events.recv_timeout(left.min(TICK)) {
                Ok(Event::Stop { who }) => {
                    info!("Stopping, asked by {who}: no worker is alive, the newest checkpoint stands.");
                    self.asked.stop = Some(Instant::now());
                }
                Ok(Event::Checkpoint) => self.board.tell("checkpoint asked for, but no worker is alive"),
                Ok(Event::Pause(paused)) => self.asked.paused = paused,
                Ok(Event::Reload) => self.reload(),
                Ok(Event::Output(line)) => self.screen.print(&line),
                _ => {}
            }
            self.turn(Instant::now());
            if self.asked.stop.is_some() {
                return true;
            }
        }
        self.asked.stop.is_some()
    }

    fn started(&mut self, resumed_step: Option<u64>) {
        self.trained = true;
        let text = match resumed_step {
            Some(step) => format!("going on from the checkpoint of step {step}"),
            None => "starting at step 0".to_owned(),
        };
        info!("Training, {text}.");
        self.board.tell(text);
        self.board.resumed(resumed_step.unwrap_or(0));
        if self.asked.stop.is_none() {
            self.enter(State::Running);
        }
    }

    /// Steps done since the newest checkpoint.
    fn unsaved_steps(&self) -> u64 {
        let saved = self.settings.run.newest_checkpoint().unwrap_or(0);
        self.board.facts().last.step.saturating_sub(saved)
    }

    fn enter(&mut self, state: State) {
        if state == State::Starting && self.asked.stop.is_some() {
            return;
        }
        self.board.set_state(state);
        if state.is_over() {
            self.board.tell(format!("the run is {}", state.word()));
        }
        self.notify.changed();
        self.notice.state = state;
        self.notice.step = self.board.facts().last.step;
        // A full disk must not end the run: the board has the state as well.
        if let Err(error) = self.settings.run.put_notice(&self.notice) {
            warn!("The run directory does not say that the run is {}: {error:#}.", state.word());
        }
    }
}
