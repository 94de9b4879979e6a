//! What the service manager is told (`sd_notify`): when training has begun, how it goes, that this process is well.
//!
//! Without `NOTIFY_SOCKET` in the environment nothing is said. What cannot be sent is lost: a service manager that does
//! not listen must not stop a run.

use std::time::{Duration, Instant};

use sd_notify::NotifyState;

use crate::board::Facts;
use crate::screen::message;

/// How often the status line is renewed, and time asked for.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// How much more time is asked for each time.
const MORE_TIME: Duration = Duration::from_secs(30);

/// This process's line to the service manager.
#[derive(Debug)]
pub struct Notify {
    listened_to: bool,
    /// How often a sign of life is wanted, if at all.
    watchdog: Option<Duration>,
    fed: Option<Instant>,
    told: Option<Instant>,
    ready: bool,
}

impl Notify {
    /// As the environment says.
    pub fn from_env() -> Notify {
        Notify {
            listened_to: std::env::var_os("NOTIFY_SOCKET").is_some(),
            // Twice as often as asked for, as sd_watchdog_enabled(3) recommends.
            watchdog: sd_notify::watchdog_enabled().map(|limit| limit / 2),
            fed: None,
            told: None,
            ready: false,
        }
    }

    /// A turn of the supervisor's loop: gives the sign of life, renews the status, and asks for time where starting or
    /// stopping may still take some; `facts` is only asked for when there is somebody to tell.
    pub fn turn(&mut self, now: Instant, waiting: bool, facts: impl FnOnce() -> Facts) {
        if !self.listened_to {
            return;
        }
        let due = |last: Option<Instant>, every| last.is_none_or(|last| now.duration_since(last) >= every);
        if self.watchdog.is_some_and(|every| due(self.fed, every)) {
            self.fed = Some(now);
            self.send(&[NotifyState::Watchdog]);
        }
        if due(self.told, TELL_EVERY) {
            self.told = Some(now);
            let facts = facts();
            self.status(&facts);
            if waiting {
                let more = u32::try_from(MORE_TIME.as_micros()).unwrap_or(u32::MAX);
                self.send(&[NotifyState::ExtendTimeoutUsec(more)]);
            }
        }
    }

    /// Training has begun; said once.
    pub fn ready(&mut self) {
        if !self.ready {
            self.ready = true;
            self.send(&[NotifyState::Ready]);
        }
    }

    /// Whether that has been said.
    pub fn is_ready(&self) -> bool {
        self.ready
    }

    /// The state is another one: the status line is renewed at the next turn.
    pub fn changed(&mut self) {
        self.told = None;
    }

    /// The settings are being read again.
    pub fn reloading(&self) {
        if let Ok(at) = NotifyState::monotonic_usec_now() {
            self.send(&[NotifyState::Reloading, at]);
        }
    }

    /// They have been; a run that is not ready yet says so later.
    pub fn reloaded(&self) {
        if self.ready {
            self.send(&[NotifyState::Ready]);
        }
    }

    /// The run ends.
    pub fn stopping(&self) {
        self.send(&[NotifyState::Stopping]);
    }

    fn status(&self, facts: &Facts) {
        let steps = facts.plan.as_ref().map_or(0, |plan| plan.steps);
        let text = match facts.last.last_step_at {
            Some(_) => {
                format!("{}: step {}/{steps}, {}", facts.state.word(), facts.last.step, message(facts))
            }
            None => facts.state.word().to_owned(),
        };
        self.send(&[NotifyState::Status(&text)]);
    }

    fn send(&self, states: &[NotifyState<'_>]) {
        if self.listened_to
            && let Err(error) = sd_notify::notify(states)
        {
            tracing::debug!("The service manager does not listen: {error}.");
        }
    }
}
