//! Steps in a row whose loss or gradient is not a number: skipped, named, and bounded.

use std::sync::atomic::Ordering::Relaxed;

use beit_shards::SampleId;
use serde_json::json;

use super::Shared;
use crate::checkpoint;
use crate::error::TrainError;
use crate::ranks::Comm;
use crate::step::Replica;

/// What was no number in a step, over all ranks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Odd {
    /// The losses of these ranks.
    Loss(Vec<u32>),
    /// A gradient, though every loss was one.
    Gradient,
}

impl Odd {
    fn what(&self) -> String {
        match self {
            Odd::Loss(ranks) => {
                let ranks: Vec<String> = ranks.iter().map(|rank| format!("rank {rank}")).collect();
                format!("the loss on {}", ranks.join(", "))
            }
            Odd::Gradient => "a gradient".to_owned(),
        }
    }
}

/// What comes after a skipped step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// The next batch, with the weights as they are.
    GoOn,
    /// The next batch, with the weights of the newest checkpoint.
    RollBack,
}

/// How many steps have been skipped in a row, the same on every rank.
#[derive(Debug, Default)]
pub(super) struct Streak {
    times: u32,
    rollbacks: u32,
}

impl Streak {
    /// Whether the newest step was skipped for good reason to doubt the weights.
    pub(super) fn runs(&self) -> bool {
        self.times > 0
    }

    /// After a step that changed the weights.
    pub(super) fn end(&mut self) {
        self.times = 0;
    }

    /// After a step that did not: names its samples and says what to do now. A gradient that overflowed while losses
    /// are scaled up only tells the scaler to scale less.
    ///
    /// # Errors
    /// [`TrainError::NotFinite`] when there were more than `max_skipped_steps` in a row, and no rollback is left
    pub(super) fn go_on(
        &mut self,
        shared: &Shared<'_>,
        skipped: Skipped<'_>,
        scale: Option<f64>,
    ) -> Result<Next, TrainError> {
        if *skipped.odd == Odd::Gradient && scale.is_some_and(|scale| scale > 1.0) {
            return Ok(Next::GoOn);
        }
        skipped.name(shared);
        self.times += 1;
        if self.times <= shared.plan.recipe.max_skipped_steps {
            return Ok(Next::GoOn);
        }
        if self.rollbacks < shared.plan.recipe.max_rollbacks {
            (self.times, self.rollbacks) = (0, self.rollbacks + 1);
            return Ok(Next::RollBack);
        }
        let Skipped { step, loss, .. } = skipped;
        Err(TrainError::NotFinite { what: skipped.odd.what(), step, times: self.times, loss })
    }
}

/// A step that was left out, as one rank saw it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Skipped<'a> {
    pub rank: u32,
    /// Counted from 1.
    pub step: u64,
    /// Mean over ranks.
    pub loss: f64,
    pub odd: &'a Odd,
    /// The rank's own.
    pub samples: &'a [SampleId],
}

impl Skipped<'_> {
    /// Names the samples of the ranks whose losses were odd, or of all where only a gradient was.
    fn name(&self, shared: &Shared<'_>) {
        let Skipped { rank, step, .. } = *self;
        if matches!(self.odd, Odd::Loss(ranks) if !ranks.contains(&rank)) {
            return;
        }
        let what = self.odd.what();
        let samples: Vec<String> = self.samples.iter().map(|id| format!("{:016x}", id.0)).collect();
        tracing::warn!(rank, step, what, samples = samples.join(" "), "Not finite: the step is skipped.");
        shared.log.event("skipped", json!({ "step": step, "rank": rank, "what": what, "samples": samples }));
    }
}

/// Takes every rank back to the newest checkpoint's weights; the order goes on where it is.
pub(super) fn roll_back(
    shared: &Shared<'_>,
    comm: &Comm,
    replica: &mut Replica,
    step: u64,
) -> Result<(), TrainError> {
    let saved = match (&shared.shelf, comm.rank) {
        (Some(shelf), 0) => shelf.newest()?.found.map(|found| checkpoint::read(&found.path)).transpose()?,
        _ => None,
    };
    // Without a checkpoint there is nothing to go back to, and all ranks must know.
    if comm.sum(&[f64::from(u8::from(saved.is_some()))])?[0] == 0.0 {
        return Err(TrainError::Plan("there is no checkpoint to roll back to".to_owned()));
    }
    replica.roll_back(comm, saved.as_ref().map(|saved| (&saved.model, &saved.optimizer)))?;
    if comm.rank == 0 {
        let to = saved.map(|saved| saved.state.step);
        shared.stats.rollbacks.fetch_add(1, Relaxed);
        tracing::warn!(step, to, "Rolled back to the weights of a checkpoint; going on with the next data.");
        shared.log.event("rolled_back", json!({ "step": step, "to": to }));
    }
    Ok(())
}
