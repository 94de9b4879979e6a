//! Goodput: what each second of the supervisor's life went for.
//!
//! ```text
//!  supervisor starts ─▶ start ─▶ first step done ─▶ training ─▶ worker dies ─▶ restart ─▶ new worker: start ─▶ …
//!                                                      │ each report: data, checkpoint, paused ─▶ booked at once
//!                                                      │ the rest ─▶ open, until a step is done: productive or recompute
//!                                                      └ a death: what is open was for nothing ─▶ restart
//! ```
//! So all classes add up to the supervisor's life, but for the step under way.

use std::time::Instant;

use crate::wire::{Lost, Sample};

/// What time goes for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// Steps that were done for the first time.
    Productive,
    /// The supervisor's and a worker's start, until its first step is done.
    Start,
    /// Ranks waited for batches.
    Data,
    /// Training stood still for a checkpoint.
    Checkpoint,
    /// Work that a death made worthless, and the time until the next worker started.
    Restart,
    /// Steps that had been done before.
    Recompute,
    /// Somebody had it stand still.
    Paused,
    /// From the request to stop, or from the last step, to the end.
    Stop,
}

impl Class {
    pub const ALL: [Class; 8] = [
        Class::Productive,
        Class::Start,
        Class::Data,
        Class::Checkpoint,
        Class::Restart,
        Class::Recompute,
        Class::Paused,
        Class::Stop,
    ];

    pub fn word(self) -> &'static str {
        match self {
            Class::Productive => "productive",
            Class::Start => "start",
            Class::Data => "data",
            Class::Checkpoint => "checkpoint",
            Class::Restart => "restart",
            Class::Recompute => "recompute",
            Class::Paused => "paused",
            Class::Stop => "stop",
        }
    }
}

/// What the supervisor is in the middle of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// No step of the present worker is done.
    Start,
    Train,
    /// No worker, but there will be one.
    Down,
    /// Nothing more will be trained.
    Stop,
}

/// The books of one supervisor's life.
#[derive(Debug)]
pub(super) struct Goodput {
    seconds: [f64; Class::ALL.len()],
    phase: Phase,
    /// Until when everything is booked or open.
    at: Instant,
    /// Computing since the last step was done.
    open: f64,
    /// What ranks of the present worker have reported as lost, the worst of them each time.
    lost: Vec<Lost>,
    /// Lost by the worker's clock and not yet booked by ours.
    owed: [(Class, f64); 3],
    steps_done: u64,
    /// The furthest step that was ever reported.
    furthest: u64,
}

impl Goodput {
    pub fn new(at: Instant) -> Goodput {
        Goodput {
            seconds: [0.0; Class::ALL.len()],
            phase: Phase::Start,
            at,
            open: 0.0,
            lost: Vec::new(),
            owed: [(Class::Paused, 0.0), (Class::Checkpoint, 0.0), (Class::Data, 0.0)],
            steps_done: 0,
            furthest: 0,
        }
    }

    /// Seconds that went for `class`.
    pub fn seconds(&self, class: Class) -> f64 {
        self.seconds[class as usize]
    }

    /// A worker was started.
    pub fn worker_started(&mut self, at: Instant) {
        self.look(at);
        self.forget_worker();
        if self.phase == Phase::Down {
            self.phase = Phase::Start;
        }
    }

    /// The worker reports.
    pub fn report(&mut self, at: Instant, sample: &Sample) {
        let steps = sample.steps_done.saturating_sub(self.steps_done);
        match self.phase {
            Phase::Start => {
                self.look(at);
                self.losses(sample); // those of the start belong to the start
                self.owed.iter_mut().for_each(|(_, owed)| *owed = 0.0);
                if steps > 0 {
                    self.phase = Phase::Train;
                }
            }
            Phase::Train => {
                let mut left = self.pass(at);
                self.losses(sample);
                for (class, owed) in &mut self.owed {
                    let part = owed.min(left);
                    self.seconds[*class as usize] += part;
                    (*owed, left) = (*owed - part, left - part);
                }
                self.open += left;
                self.close(steps, sample.step);
            }
            Phase::Down => self.look(at),
            Phase::Stop => {
                self.look(at);
                self.close(steps, sample.step);
            }
        }
        self.steps_done = sample.steps_done.max(self.steps_done);
        self.furthest = self.furthest.max(sample.step);
    }

    /// The worker is gone; `again`: another one will be started.
    pub fn worker_gone(&mut self, at: Instant, again: bool) {
        let passed = self.pass(at);
        if !again {
            self.phase = Phase::Stop;
        } else if self.phase != Phase::Stop {
            self.phase = Phase::Down;
        }
        let class = if self.phase == Phase::Stop { Class::Stop } else { Class::Restart };
        self.seconds[class as usize] += passed + std::mem::take(&mut self.open);
        self.forget_worker();
    }

    /// Somebody has asked for the end, or it has come.
    pub fn stop(&mut self, at: Instant) {
        match self.phase {
            // The step under way is still done.
            Phase::Train => self.open += self.pass(at),
            _ => self.look(at),
        }
        self.phase = Phase::Stop;
    }

    /// Books the time until now, where that needs no report of the worker.
    pub fn look(&mut self, at: Instant) {
        let class = match self.phase {
            Phase::Start => Class::Start,
            Phase::Down => Class::Restart,
            Phase::Stop => Class::Stop,
            Phase::Train => return,
        };
        self.seconds[class as usize] += self.pass(at);
    }

    fn pass(&mut self, at: Instant) -> f64 {
        let passed = at.saturating_duration_since(self.at).as_secs_f64();
        self.at = self.at.max(at);
        passed
    }

    /// What is open went for `steps` steps up to `step`.
    fn close(&mut self, steps: u64, step: u64) {
        if steps > 0 {
            let again = self.furthest.saturating_sub(step.saturating_sub(steps)).min(steps);
            let share = self.open * again as f64 / steps as f64;
            self.seconds[Class::Recompute as usize] += share;
            self.seconds[Class::Productive as usize] += self.open - share;
            self.open = 0.0;
        }
    }

    /// Notes what was lost since the last report: a step is as slow as its slowest rank, so the worst of them counts.
    fn losses(&mut self, sample: &Sample) {
        self.lost.resize(sample.ranks.len().max(self.lost.len()), Lost::default());
        let mut worst = [0.0_f64; 3];
        for (before, rank) in self.lost.iter_mut().zip(&sample.ranks) {
            let now = rank.lost;
            let since =
                [now.paused - before.paused, now.checkpoint - before.checkpoint, now.data - before.data];
            worst.iter_mut().zip(since).for_each(|(worst, since)| *worst = worst.max(since));
            *before = Lost {
                data: before.data.max(now.data),
                checkpoint: before.checkpoint.max(now.checkpoint),
                paused: before.paused.max(now.paused),
            };
        }
        self.owed.iter_mut().zip(worst).for_each(|((_, owed), worst)| *owed += worst);
    }

    fn forget_worker(&mut self) {
        self.lost.clear();
        self.owed.iter_mut().for_each(|(_, owed)| *owed = 0.0);
        (self.open, self.steps_done) = (0.0, 0);
    }
}

#[cfg(test)]
mod tests;
