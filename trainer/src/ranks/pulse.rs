//! Pulse: each process tells the store, again and again, what its ranks do, so that those who miss them can say who they
//! were, where, and what they did last.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use beit_torch::Store;
use serde::{Deserialize, Serialize};

use super::{Address, World, this_host};
use crate::error::{TrainError, torch};
use crate::stats::{TrainStats, unix_ms};

/// What a process says of itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Sign {
    /// Its first rank; that of the others follow.
    pub first: u32,
    /// Where it runs.
    pub host: String,
    pub pid: u32,
    /// Counts up for as long as it lives.
    pub beat: u64,
    /// By its own clock.
    pub unix_ms: u64,
    /// Steps its first rank has done.
    pub step: u64,
    /// What each of its ranks does, and for how many seconds.
    pub stages: Vec<(String, f64)>,
    /// Which of its ranks failed by itself, and why.
    pub failed: Option<(u32, String)>,
    /// It needs the store no more.
    pub left: bool,
}

/// Under which key the process of rank `first` gives its signs.
pub(super) fn key(first: u32) -> String {
    format!("sign/{first}")
}

/// The signs of all processes of `world`, in their order.
///
/// # Errors
/// The store is gone.
pub(super) fn signs(store: &Store, world: &World) -> Result<Vec<Option<Sign>>, TrainError> {
    let doing = "asking after the other ranks";
    let sign = |first| {
        let key = key(first);
        if !store.has(&key).map_err(torch(doing))? {
            return Ok(None);
        }
        let bytes = store.get(&key).map_err(torch(doing))?;
        Ok(serde_json::from_slice(&bytes).ok())
    };
    world.processes().map(sign).collect()
}

/// This process's own signs; while it is kept, so is the store, if this process serves it.
pub(crate) struct Pulse {
    world: World,
    state: Mutex<State>,
    over: Condvar,
}

struct State {
    line: Store,
    sign: Sign,
    over: bool,
    server: Option<Store>,
}

/// Between two signs, and four times as long among a thousand processes.
const EVERY: Duration = Duration::from_millis(250);

/// How long a process is watched before it counts as silent: ten signs, for a busy machine may swallow a few.
pub(super) const WATCH: Duration = Duration::from_millis(2500);

/// How long the server of the store stays for the others to ask who is gone.
const STAY: Duration = Duration::from_secs(10);

impl Pulse {
    /// Gives the first sign; keeps `server`, if this process serves the store.
    ///
    /// # Errors
    /// The store can't be reached within `timeout`.
    pub(crate) fn begin(
        point: &Address,
        world: &World,
        server: Option<Store>,
        timeout: Duration,
    ) -> Result<Pulse, TrainError> {
        let line = point.connect(world.size, timeout)?;
        let sign = Sign { first: world.first, host: this_host(), pid: std::process::id(), ..Sign::default() };
        let mut state = State { line, sign, over: false, server };
        state.give();
        Ok(Pulse { world: world.clone(), state: Mutex::new(state), over: Condvar::new() })
    }

    /// Gives signs until [`Pulse::rest`].
    pub(crate) fn beat(&self, stats: &TrainStats) {
        if self.world.alone() {
            return; // nobody listens
        }
        let every = EVERY * (1 + self.world.processes().count() as u32 / 256);
        let mut state = self.state();
        while !state.over {
            state.sign.step = stats.step.load(Relaxed);
            state.sign.stages = (0..stats.ranks.len())
                .map(|local| stats.stage(local))
                .map(|(stage, seconds)| (stage.name().to_owned(), seconds))
                .collect();
            state.give();
            state = self.over.wait_timeout(state, every).unwrap_or_else(|held| held.into_inner()).0;
        }
    }

    /// Ends [`Pulse::beat`].
    pub(crate) fn rest(&self) {
        self.state().over = true;
        self.over.notify_all();
    }

    /// Tells the others that a rank of this process failed by itself, before they notice that it is gone.
    pub(crate) fn failed(&self, rank: u32, reason: &str) {
        let mut state = self.state();
        state.sign.failed.get_or_insert_with(|| (rank, reason.to_owned()));
        state.give();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|held| held.into_inner())
    }

    /// Waits until the other processes have left or fallen silent.
    fn stay(&self) {
        let begun = Instant::now();
        let mut last: Vec<(u64, Instant)> = self.world.processes().map(|_| (0, begun)).collect();
        while begun.elapsed() < STAY {
            let Ok(signs) = signs(&self.state().line, &self.world) else { return };
            let gone = signs.iter().zip(&mut last).all(|(sign, (beat, since))| {
                let Some(sign) = sign else { return false };
                if sign.beat != *beat {
                    (*beat, *since) = (sign.beat, Instant::now());
                }
                sign.left || since.elapsed() > WATCH
            });
            if gone {
                return;
            }
            std::thread::sleep(EVERY / 5);
        }
    }
}

impl State {
    /// A store that is gone shows where ranks wait for each other.
    fn give(&mut self) {
        self.sign.beat += 1;
        self.sign.unix_ms = unix_ms();
        if let Ok(text) = serde_json::to_vec(&self.sign) {
            let _ = self.line.set(&key(self.sign.first), &text);
        }
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        if self.world.alone() {
            return;
        }
        let mut state = self.state();
        state.sign.left = true;
        state.give();
        let serves = state.server.is_some();
        drop(state);
        if serves {
            self.stay();
        }
    }
}
