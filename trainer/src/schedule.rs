//! Learning rate and weight decay of every step: pure functions, bit-equal to the reference's NumPy.

use std::f64::consts::PI;

/// A linear warm-up, then half a cosine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    peak: f64,
    end: f64,
    warmup: u64,
    total: u64,
}

/// Lengths that make no schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ScheduleError {
    /// No step at all.
    #[error("the run has no step; give it more epochs or steps, or a smaller global batch than the data set")]
    Empty,
    /// More warm-up than run.
    #[error(
        "the warm-up takes {warmup} steps but the run has only {total}; shorten warmup_steps or warmup_epochs, or \
         train longer"
    )]
    WarmupTooLong {
        /// Steps of warm-up.
        warmup: u64,
        /// Steps of the run.
        total: u64,
    },
}

/// Steps of warm-up: `warmup_steps` when it is above 0, else `warmup_epochs` of `steps_per_epoch` each.
///
/// The reference needs `warmup_epochs` > 0 for `warmup_steps` to work and stops with an assertion otherwise (quirk Q5);
/// here `warmup_steps` means what it says.
pub fn warmup_length(warmup_epochs: u64, warmup_steps: i64, steps_per_epoch: u64) -> u64 {
    match u64::try_from(warmup_steps) {
        Ok(steps) if steps > 0 => steps,
        _ => warmup_epochs * steps_per_epoch,
    }
}

impl Schedule {
    /// From 0 to `peak` in `warmup` steps, then down towards `end`, which is never reached, until step `total`.
    ///
    /// # Errors
    /// `total` is 0 or less than `warmup`
    pub fn new(peak: f64, end: f64, warmup: u64, total: u64) -> Result<Schedule, ScheduleError> {
        if total == 0 {
            return Err(ScheduleError::Empty);
        }
        if warmup > total {
            return Err(ScheduleError::WarmupTooLong { warmup, total });
        }
        Ok(Schedule { peak, end, warmup, total })
    }

    /// The learning rate's schedule: step 0 has 0, the last step of warm-up and the next one have `lr`.
    ///
    /// # Errors
    /// as [`Schedule::new`]
    pub fn learning_rate(lr: f64, min_lr: f64, warmup: u64, total: u64) -> Result<Schedule, ScheduleError> {
        Schedule::new(lr, min_lr, warmup, total)
    }

    /// The weight decay's schedule: a cosine without warm-up; constant without `end`.
    ///
    /// # Errors
    /// as [`Schedule::new`]
    pub fn weight_decay(decay: f64, end: Option<f64>, total: u64) -> Result<Schedule, ScheduleError> {
        Schedule::new(decay, end.unwrap_or(decay), 0, total)
    }

    /// How many steps it covers.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// How many of them are warm-up.
    pub fn warmup(&self) -> u64 {
        self.warmup
    }

    /// The value at step `step`, counted from 0; past the end, the last one's.
    ///
    /// # Source
    /// `cosine_scheduler` in `unilm/beit/utils.py`; the order of operations is NumPy's, so that no bit differs
    pub fn at(&self, step: u64) -> f64 {
        let step = step.min(self.total - 1);
        if step < self.warmup {
            return self.warming(step);
        }
        let (done, length) = ((step - self.warmup) as f64, (self.total - self.warmup) as f64);
        self.end + 0.5 * (self.peak - self.end) * (1.0 + (PI * done / length).cos())
    }

    /// `numpy.linspace(0, peak, warmup)[step]`
    fn warming(&self, step: u64) -> f64 {
        match self.warmup {
            1 => 0.0,
            warmup if step == warmup - 1 => self.peak,
            warmup => step as f64 * (self.peak / (warmup - 1) as f64),
        }
    }
}

#[cfg(test)]
mod tests;
