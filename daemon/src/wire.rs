//! What supervisor and worker say to each other: one JSON object per line, on two pipes.
//!
//! The worker reads [`ToWorker`] from its stdin and writes [`FromWorker`] to what was its stdout. Both ends are the
//! same binary, so the version guards only against a binary replaced while it runs. An end of file is a
//! message too: to the worker it means that its supervisor is gone, to the supervisor that its worker is.

use std::collections::BTreeMap;
use std::io::{self, BufRead, Write};
use std::path::PathBuf;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::cause::Cause;
use crate::settings::Job;

/// Version of the messages below.
pub const VERSION: u32 = 1;

/// Longest line either end accepts; the plan, some kilobytes, is the longest real one.
const MAX_LINE_BYTES: u64 = 1 << 20;

/// What the supervisor asks of its worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum ToWorker {
    /// Always the first line: what to train.
    Begin { version: u32, job: Box<Job> },
    /// Save a checkpoint and go on.
    Checkpoint,
    /// Stand still after the step under way, or go on.
    Pause { paused: bool },
    /// Log what this filter lets through.
    Log { filter: String },
    /// Save a checkpoint and end.
    Stop,
}

/// What the worker reports.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "report", rename_all = "snake_case")]
pub enum FromWorker {
    /// The plan is made and holds.
    Planned(Box<Planned>),
    /// Ranks have met, the newest checkpoint is read: training begins.
    Started {
        /// The step it goes on from, if not from the beginning.
        resumed_step: Option<u64>,
    },
    /// The state of training, some times a second.
    Sample(Box<Sample>),
    /// Training has ended as it should, and its last checkpoint is on disk.
    Finished {
        /// All steps are done; otherwise it was asked to stop.
        complete: bool,
        /// Steps done over the whole run.
        step: u64,
        /// The last published checkpoint.
        checkpoint: Option<PathBuf>,
    },
    /// Training cannot go on.
    Failed {
        /// The same would happen again: the supervisor does not restart.
        permanent: bool,
        /// It had done a step, or at least begun to train.
        started: bool,
        /// What kind of failure it is.
        cause: Cause,
        /// What happened, where, and what to do.
        message: String,
    },
}

/// The facts of a plan that pages and progress bars show.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Planned {
    /// The resolved plan as the trainer prints it.
    pub text: String,
    /// Steps of the whole run.
    pub steps: u64,
    /// Ranks of the whole run.
    pub world_size: u32,
    /// Samples of a step, over all ranks.
    pub global_batch: u64,
    /// Samples in the shards.
    pub samples: u64,
    /// Different corrupt records that are replaced before the run is given up.
    pub max_corrupt_samples: u64,
}

/// The state of training at one moment. Counts start at 0 in each worker; the supervisor adds up its lives.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sample {
    /// Steps done over the whole run.
    pub step: u64,
    /// Epoch of the last step.
    pub epoch: u64,
    /// Mean loss of the last step over all ranks; NaN before the first.
    #[serde(with = "finite")]
    pub loss: f64,
    /// Share of hidden tokens predicted right in the last step, 0 to 1.
    #[serde(with = "finite")]
    pub mlm_acc: f64,
    /// Learning rate of the last step.
    #[serde(with = "finite")]
    pub lr: f64,
    /// Global gradient norm of the last step, before clipping.
    #[serde(with = "finite")]
    pub grad_norm: f64,
    /// Steps done by this worker.
    pub steps_done: u64,
    /// Samples trained on by this worker, over its ranks.
    pub samples: u64,
    /// Visual tokens of those samples, one for each patch.
    pub tokens: u64,
    /// Steps whose update was left out, since something was not finite.
    pub skipped_steps: u64,
    /// Returns to the weights of a checkpoint.
    pub rollbacks: u64,
    /// What the loss is multiplied by.
    #[serde(with = "finite")]
    pub loss_scale: f64,
    /// Floating-point operations of those steps, over all ranks of the run.
    pub flops: f64,
    /// Model FLOPs utilisation, 0 to 1; `None` when the devices' peak is not known.
    pub mfu: Option<f64>,
    /// When the last step ended, seconds since 1970; `None` before the first.
    pub last_step_at: Option<f64>,
    /// One entry for each rank of this process.
    pub ranks: Vec<RankSample>,
    /// The loader's side.
    pub loader: LoaderSample,
    /// The checkpoints' side.
    pub checkpoint: CheckpointSample,
    /// What goes through each stage, by its name: read, view, batch, step, checkpoint.
    pub pipeline: BTreeMap<String, Flow>,
}

impl Sample {
    /// Without the histograms, which only `/metrics` shows.
    pub fn without_times(mut self) -> Sample {
        self.loader.decode = Times::default();
        for rank in &mut self.ranks {
            (rank.step_duration, rank.data_wait, rank.all_reduce) = Default::default();
        }
        self
    }
}

/// How often something took how long.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Times {
    /// Counts by bucket, of [`beit_loader::BOUNDS_NS`] and above; each time is in one of them.
    pub counts: Vec<u64>,
    /// Their sum.
    pub seconds: f64,
}

impl Times {
    /// Nothing was measured, or it is not shown here.
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }
}

/// What has gone through a stage.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Flow {
    /// Items begun.
    pub items_in: u64,
    /// Items in hand now.
    pub in_progress: u64,
    /// Items finished well.
    pub items_out: u64,
    /// When the last one was finished, seconds since 1970, to within one report.
    pub last_at: Option<f64>,
}

/// Seconds for which a rank did not train, the present moment included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Lost {
    /// It waited for a batch, or took it over.
    pub data: f64,
    /// It stood still for a checkpoint.
    pub checkpoint: f64,
    /// It stood still because somebody asked.
    pub paused: f64,
}

/// One rank's share of a [`Sample`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RankSample {
    /// Its number in the whole run.
    pub rank: u32,
    /// Seconds it has waited for data.
    pub data_wait_seconds: f64,
    /// Batches ready for it now.
    pub queue_depth: u64,
    /// Batches that may be ready at most.
    pub queue_slots: u64,
    /// What it is doing, in the trainer's word.
    pub stage: String,
    /// For how long.
    pub stage_seconds: f64,
    /// For how long it did not train.
    pub lost: Lost,
    /// Its steps.
    #[serde(skip_serializing_if = "Times::is_empty")]
    pub step_duration: Times,
    /// Its waits for batches.
    #[serde(skip_serializing_if = "Times::is_empty")]
    pub data_wait: Times,
    /// Its waits for the other ranks.
    #[serde(skip_serializing_if = "Times::is_empty")]
    pub all_reduce: Times,
}

/// What the loader has done.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LoaderSample {
    /// Samples made ready.
    pub samples: u64,
    /// Records read whose checksums hold.
    pub records: u64,
    /// Bytes of the payloads they were made of.
    pub bytes: u64,
    /// Processor time of its threads.
    pub cpu_seconds: f64,
    /// Thread seconds by stage.
    pub stage_seconds: BTreeMap<String, f64>,
    /// How often another sample stood in for one that could not be used.
    pub replaced: u64,
    /// Different records that could not be used, by reason.
    pub corrupt: BTreeMap<String, u64>,
    /// Making one view's pixels from its payload.
    #[serde(skip_serializing_if = "Times::is_empty")]
    pub decode: Times,
}

/// What has been saved.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CheckpointSample {
    /// Saves that were published.
    pub saved: u64,
    /// Saves that failed.
    pub failed: u64,
    /// Step of the last published one.
    pub step: Option<u64>,
    /// When it was published, seconds since 1970.
    pub at: Option<f64>,
    /// Its size on disk.
    pub bytes: u64,
    /// How long the save took, while training went on.
    pub seconds: f64,
    /// How long training stood still for saves.
    pub blocked_seconds: f64,
}

/// JSON has no NaN and no infinity: they travel as null and arrive as NaN.
mod finite {
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(value: &f64, out: S) -> Result<S::Ok, S::Error> {
        if value.is_finite() { out.serialize_f64(*value) } else { out.serialize_none() }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<f64, D::Error> {
        Ok(Option::<f64>::deserialize(input)?.unwrap_or(f64::NAN))
    }
}

/// Writes one message as one line and flushes it.
///
/// # Errors
/// The pipe's; a broken pipe means that the other end is gone.
pub fn send<T: Serialize>(mut pipe: impl Write, message: &T) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    pipe.write_all(&line)?;
    pipe.flush()
}

/// Reads the next message; `None` at the end of the pipe, also when the other end died inside a line.
///
/// # Errors
/// The pipe's; `InvalidData` for a line that is too long or no message of this version.
pub fn receive<T: DeserializeOwned>(pipe: &mut impl BufRead) -> io::Result<Option<T>> {
    let mut line = Vec::new();
    io::Read::take(&mut *pipe, MAX_LINE_BYTES).read_until(b'\n', &mut line)?;
    if line.last() != Some(&b'\n') {
        return if line.len() as u64 == MAX_LINE_BYTES {
            Err(io::Error::new(io::ErrorKind::InvalidData, "a message is longer than 1 MiB"))
        } else {
            Ok(None)
        };
    }
    Ok(Some(serde_json::from_slice(&line)?))
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use super::*;

    #[test]
    fn a_sample_survives_the_pipe_even_with_a_loss_that_is_no_number() {
        let sent = Sample { step: 7, loss: f64::NAN, lr: 1.5e-3, ..Sample::default() };
        let mut pipe = Vec::new();
        send(&mut pipe, &FromWorker::Sample(Box::new(sent))).unwrap();
        let got: FromWorker = receive(&mut BufReader::new(&pipe[..])).unwrap().unwrap();
        let FromWorker::Sample(got) = got else { panic!("{got:?}") };
        assert!(got.loss.is_nan());
        assert_eq!((got.step, got.lr), (7, 1.5e-3));
    }

    #[test]
    fn a_line_cut_by_a_kill_is_the_end_and_not_an_error() {
        let mut pipe = Vec::new();
        send(&mut pipe, &ToWorker::Checkpoint).unwrap();
        send(&mut pipe, &ToWorker::Stop).unwrap();
        pipe.truncate(pipe.len() - 3);
        let mut pipe = BufReader::new(&pipe[..]);
        assert_eq!(receive::<ToWorker>(&mut pipe).unwrap(), Some(ToWorker::Checkpoint));
        assert_eq!(receive::<ToWorker>(&mut pipe).unwrap(), None);
    }

    #[test]
    fn a_line_without_end_is_refused_before_it_fills_the_memory() {
        let mut endless = BufReader::new(std::io::repeat(b'x'));
        let error = receive::<ToWorker>(&mut endless).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
    }
}
