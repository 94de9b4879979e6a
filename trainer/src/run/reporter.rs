//! Reporter: what rank 0 tells of every step and epoch, in the reference's forms: console, `log.txt`, TensorBoard.

use std::path::Path;
use std::time::Duration;

use super::Shared;
use crate::epoch_log::EpochLog;
use crate::error::TrainError;
use crate::memory::peak_resident_bytes;
use crate::meter::{Epoch, EpochSums, NAMES, Numbers};
use crate::tensorboard::Events;

/// Follows the epochs of a run: stretches of `steps_per_epoch` steps, as the reference counts them.
pub(super) struct Reporter {
    epoch: Epoch,
    steps_per_epoch: u64,
    log: EpochLog,
    events: Option<Events>,
}

impl Reporter {
    /// Opens the files of a run that goes on at its first step; `left` is what its checkpoint says of the epoch under way.
    ///
    /// # Errors
    /// A file can't be opened.
    pub fn open(
        shared: &Shared<'_>,
        parameters: u64,
        left: Option<&EpochSums>,
    ) -> Result<Reporter, TrainError> {
        let plan = shared.plan;
        let first = shared.first_step;
        let steps_per_epoch = plan.steps_per_epoch.max(1); // a set smaller than a batch has an epoch in every step
        let (number, done) = (first / steps_per_epoch, first % steps_per_epoch);
        // Another number of samples or ranks makes other epochs.
        let left = left.filter(|left| (left.epoch, left.steps) == (number, done));
        let events = match &plan.recipe.log_dir {
            Some(folder) => Some(Events::create(Path::new(folder), first)?),
            None => None,
        };
        let log = EpochLog::open(&plan.run, number, parameters)?;
        Ok(Reporter { epoch: Epoch::new(number, left), steps_per_epoch, log, events })
    }

    /// Tells a step that is done; steps are counted from 1 here.
    pub fn step(
        &mut self,
        shared: &Shared<'_>,
        step: u64,
        numbers: &Numbers,
        waited: Duration,
        took: Duration,
    ) {
        let (plan, of) = (shared.plan, self.steps_per_epoch);
        let (number, at) = ((step - 1) / of, (step - 1) % of);
        if self.epoch.number() != number {
            self.epoch = Epoch::new(number, None);
        }
        self.epoch.add(numbers, waited, took);
        if let Some(events) = &mut self.events {
            events.scalars(step - 1, NAMES.iter().map(|name| tag(name)).zip(numbers.list()));
        }
        let (last, ends) = (step == plan.steps, at + 1 == of || step == plan.steps);
        let every = u64::from(plan.recipe.print_freq);
        // Of epochs with fewer steps than that, only some are told: they would flood the console.
        let short = of < every;
        if last || if short { step.is_multiple_of(every) } else { ends || at.is_multiple_of(every) } {
            shared.stats.print(&self.epoch.line(at, of, peak_resident_bytes()));
        }
        if ends {
            self.log.append(&self.epoch);
        }
        if last || (ends && !short) {
            shared.stats.print(&self.epoch.end());
        }
    }

    /// For a checkpoint.
    pub fn sums(&self) -> EpochSums {
        self.epoch.sums()
    }
}

/// TensorBoard's name of a number, as the reference has it.
fn tag(name: &str) -> &'static str {
    match name {
        "mlm_acc" => "loss/mlm_acc",
        "loss" => "loss/loss",
        "loss_scale" => "opt/loss_scale",
        "lr" => "opt/lr",
        "min_lr" => "opt/min_lr",
        "weight_decay" => "opt/weight_decay",
        _ => "opt/grad_norm",
    }
}

#[cfg(test)]
mod tests;
