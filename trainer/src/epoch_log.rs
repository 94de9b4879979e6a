//! `log.txt` of a run: one line of JSON per epoch with the reference's keys, so that its plotting scripts work.
//!
//! Two things differ from the reference's file. It is always valid JSON: a mean leaves out the steps whose value is not
//! finite, and is null where none remains; the reference writes bare `NaN` and `Infinity` (quirk Q18). And no epoch comes
//! twice: a resumed run takes back the lines of the epochs that it does again.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::error::{TrainError, io};
use crate::meter::{Epoch, NAMES};

/// The reference's keys in the reference's order.
#[derive(Debug, Serialize)]
struct Line {
    train_lr: Option<f64>,
    train_min_lr: Option<f64>,
    train_mlm_acc: Option<f64>,
    train_loss: Option<f64>,
    train_loss_scale: Option<f64>,
    train_weight_decay: Option<f64>,
    train_grad_norm: Option<f64>,
    epoch: u64,
    n_parameters: u64,
}

/// An opened `log.txt`. What a full disk does not take waits here.
#[derive(Debug)]
pub(crate) struct EpochLog {
    path: PathBuf,
    parameters: u64,
    /// What the file is to begin with, where it could not be written anew.
    anew: Option<String>,
    /// Lines that could not be written.
    waiting: Vec<u8>,
    /// Whether something waits: the first failure of many is told, not each.
    failing: bool,
}

impl EpochLog {
    /// Opens the log of the run in `run`, which goes on in epoch `first`, and takes back what it says of that and later ones.
    ///
    /// # Errors
    /// It can't be read.
    pub(crate) fn open(run: &Path, first: u64, parameters: u64) -> Result<EpochLog, TrainError> {
        let path = run.join("log.txt");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            Err(error) => return Err(io("reading", &path)(error)),
        };
        let kept: String = text
            .split_inclusive('\n')
            .filter(|line| line.ends_with('\n')) // A killed trainer may have left half a line.
            .filter(|line| epoch_of(line).is_some_and(|epoch| epoch < first))
            .collect();
        let anew = (kept != text).then_some(kept);
        let mut log = EpochLog { path, parameters, anew, waiting: Vec::new(), failing: false };
        log.write();
        Ok(log)
    }

    /// Appends the line of an epoch at its end; on a full disk it waits until there is room again.
    pub(crate) fn append(&mut self, epoch: &Epoch) {
        debug_assert_eq!(NAMES[0], "lr");
        let [lr, min_lr, mlm_acc, loss, loss_scale, weight_decay, grad_norm] = epoch.means();
        let line = Line {
            train_lr: lr,
            train_min_lr: min_lr,
            train_mlm_acc: mlm_acc,
            train_loss: loss,
            train_loss_scale: loss_scale,
            train_weight_decay: weight_decay,
            train_grad_norm: grad_norm,
            epoch: epoch.number(),
            n_parameters: self.parameters,
        };
        if let Ok(text) = serde_json::to_string(&line) {
            self.waiting.extend_from_slice(format!("{text}\n").as_bytes());
        }
        self.write();
    }

    /// Writes what waits.
    fn write(&mut self) {
        let written = self.begin_anew().and_then(|()| self.write_waiting());
        match (&written, self.failing) {
            (Err(error), false) => {
                tracing::warn!(%error, "log.txt cannot be written; its lines wait in memory.");
            }
            (Ok(()), true) => tracing::info!("log.txt can be written again."),
            _ => {}
        }
        self.failing = written.is_err();
    }

    fn begin_anew(&mut self) -> std::io::Result<()> {
        if let Some(kept) = &self.anew {
            let private = self.path.with_file_name(".tmp-log.txt");
            let mut file = File::create(&private)?;
            file.write_all(kept.as_bytes()).and_then(|()| file.sync_all())?;
            fs::rename(&private, &self.path)?;
            self.anew = None;
        }
        Ok(())
    }

    fn write_waiting(&mut self) -> std::io::Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let mut file = File::options().create(true).append(true).open(&self.path)?;
        while !self.waiting.is_empty() {
            match file.write(&self.waiting)? {
                0 => return Err(ErrorKind::WriteZero.into()),
                written => drop(self.waiting.drain(..written)),
            }
        }
        Ok(())
    }
}

fn epoch_of(line: &str) -> Option<u64> {
    serde_json::from_str::<serde_json::Value>(line).ok()?.get("epoch")?.as_u64()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::meter::Numbers;

    fn epoch(number: u64, loss: f64) -> Epoch {
        let mut epoch = Epoch::new(number, None);
        let numbers = Numbers {
            lr: 1e-3,
            min_lr: 1e-3,
            mlm_acc: 0.5,
            loss,
            loss_scale: 1.0,
            weight_decay: 0.05,
            grad_norm: f64::INFINITY,
        };
        epoch.add(&numbers, Duration::ZERO, Duration::ZERO);
        epoch
    }

    #[test]
    fn a_line_has_the_references_keys_in_its_order_and_is_json() {
        let run = tempfile::tempdir().unwrap();
        EpochLog::open(run.path(), 0, 77).unwrap().append(&epoch(0, 2.5));
        assert_eq!(
            fs::read_to_string(run.path().join("log.txt")).unwrap(),
            "{\"train_lr\":0.001,\"train_min_lr\":0.001,\"train_mlm_acc\":0.5,\"train_loss\":2.5,\
             \"train_loss_scale\":1.0,\"train_weight_decay\":0.05,\"train_grad_norm\":null,\"epoch\":0,\
             \"n_parameters\":77}\n"
        );
    }

    #[test]
    fn epochs_that_are_done_again_are_taken_back() {
        let run = tempfile::tempdir().unwrap();
        let path = run.path().join("log.txt");
        let mut log = EpochLog::open(run.path(), 0, 1).unwrap();
        for number in 0..4 {
            log.append(&epoch(number, number as f64));
        }
        let whole = fs::read_to_string(&path).unwrap();
        fs::write(&path, format!("{whole}{{\"train_lr\":0.00")).unwrap(); // killed within a line
        let mut log = EpochLog::open(run.path(), 2, 1).unwrap();
        let kept: String = whole.split_inclusive('\n').take(2).collect();
        assert_eq!(fs::read_to_string(&path).unwrap(), kept);
        for number in 2..4 {
            log.append(&epoch(number, number as f64));
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), whole);
        assert_eq!(fs::read_dir(run.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_run_goes_on_where_its_log_cannot_be_written_and_catches_up_later() {
        let run = tempfile::tempdir().unwrap();
        let path = run.path().join("log.txt");
        let mut log = EpochLog::open(run.path(), 0, 1).unwrap();
        (0..3).for_each(|number| log.append(&epoch(number, number as f64)));
        let whole = fs::read_to_string(&path).unwrap();
        // A folder in the way refuses the file as a full disk does.
        let in_the_way = run.path().join(".tmp-log.txt");
        fs::create_dir(&in_the_way).unwrap();
        let mut log = EpochLog::open(run.path(), 1, 1).unwrap();
        log.append(&epoch(1, 1.0));
        assert_eq!(fs::read_to_string(&path).unwrap(), whole, "nothing is half written");
        fs::remove_dir(&in_the_way).unwrap();
        log.append(&epoch(2, 2.0));
        assert_eq!(fs::read_to_string(&path).unwrap(), whole);
    }
}
