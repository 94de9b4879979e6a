//! Running numbers of an epoch, smoothed and printed as the reference does: what its console and its `log.txt` show.

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// How many of the newest values the median and the running mean look at.
const WINDOW: usize = 20;

/// The numbers of a step by the reference's names, in the order of its lines.
pub(crate) const NAMES: [&str; 7] =
    ["lr", "min_lr", "mlm_acc", "loss", "loss_scale", "weight_decay", "grad_norm"];

/// What a step is told by; means over ranks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Numbers {
    /// Highest learning rate of all groups.
    pub lr: f64,
    /// Lowest learning rate of all groups.
    pub min_lr: f64,
    /// Share of masked tokens guessed right.
    pub mlm_acc: f64,
    /// Masked-token loss in nats.
    pub loss: f64,
    /// What the loss was multiplied by; 1 without a scaler.
    pub loss_scale: f64,
    /// Of the group that decays.
    pub weight_decay: f64,
    /// Before clipping.
    pub grad_norm: f64,
}

impl Numbers {
    /// In the order of [`NAMES`].
    pub(crate) fn list(&self) -> [f64; NAMES.len()] {
        let Numbers { lr, min_lr, mlm_acc, loss, loss_scale, weight_decay, grad_norm } = *self;
        [lr, min_lr, mlm_acc, loss, loss_scale, weight_decay, grad_norm]
    }
}

/// Sum and count of the finite values among all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sum {
    #[serde(with = "exact")]
    sum: f64,
    count: u64,
}

impl Sum {
    fn add(&mut self, value: f64) {
        if value.is_finite() {
            self.sum += value;
            self.count += 1;
        }
    }

    /// `None`: there was no finite value.
    fn mean(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum / self.count as f64)
    }
}

/// A number as text, which comes back bit for bit.
mod exact {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(value: &f64, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(value)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<f64, D::Error> {
        String::deserialize(input)?.parse().map_err(D::Error::custom)
    }
}

/// A series of numbers.
#[derive(Clone, Debug, Default)]
struct Series {
    window: VecDeque<f64>,
    all: Sum,
}

impl Series {
    fn add(&mut self, value: f64) {
        if self.window.len() == WINDOW {
            self.window.pop_front();
        }
        self.window.push_back(value);
        self.all.add(value);
    }

    fn newest(&self) -> f64 {
        self.window.back().copied().unwrap_or(f64::NAN)
    }

    /// The lower one of an even count.
    fn median(&self) -> f64 {
        let mut sorted: Vec<f64> = self.window.iter().copied().collect();
        sorted.sort_by(f64::total_cmp);
        match sorted.len() {
            0 => f64::NAN,
            _ if sorted.iter().any(|value| value.is_nan()) => f64::NAN,
            count => sorted[(count - 1) / 2],
        }
    }

    fn recent_mean(&self) -> f64 {
        self.window.iter().sum::<f64>() / self.window.len() as f64
    }

    fn mean(&self) -> f64 {
        self.all.mean().unwrap_or(f64::NAN)
    }
}

/// What an epoch under way adds to its line of `log.txt`; a checkpoint keeps it, so that the line of an epoch that was
/// interrupted is the line it would have been.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EpochSums {
    /// Number of the epoch: its steps are `epoch * steps_per_epoch` and those after it.
    pub(crate) epoch: u64,
    /// Steps of it that are done.
    pub(crate) steps: u64,
    /// In the order of the reference's line.
    pub(crate) sums: [Sum; NAMES.len()],
}

/// An epoch under way.
#[derive(Debug)]
pub(crate) struct Epoch {
    number: u64,
    /// Steps of it that are done, earlier starts of the run included.
    done: u64,
    series: [Series; NAMES.len()],
    step_s: Series,
    data_s: Series,
    begun: Instant,
}

impl Epoch {
    /// An epoch at its start, or where a checkpoint left it.
    pub(crate) fn new(number: u64, left: Option<&EpochSums>) -> Epoch {
        let mut series: [Series; NAMES.len()] = Default::default();
        for (series, sum) in series.iter_mut().zip(left.iter().flat_map(|left| &left.sums)) {
            series.all = *sum;
        }
        Epoch {
            number,
            done: left.map_or(0, |left| left.steps),
            series,
            step_s: Series::default(),
            data_s: Series::default(),
            begun: Instant::now(),
        }
    }

    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// A step that waited `waited` for its batch and took `took` with that.
    pub(crate) fn add(&mut self, numbers: &Numbers, waited: Duration, took: Duration) {
        for (series, value) in self.series.iter_mut().zip(numbers.list()) {
            series.add(value);
        }
        self.data_s.add(waited.as_secs_f64());
        self.step_s.add(took.as_secs_f64());
        self.done += 1;
    }

    /// For a checkpoint.
    pub(crate) fn sums(&self) -> EpochSums {
        EpochSums {
            epoch: self.number,
            steps: self.done,
            sums: std::array::from_fn(|at| self.series[at].all),
        }
    }

    /// Means over the epoch so far, in the order of [`NAMES`]; values that are no numbers are left out.
    pub(crate) fn means(&self) -> [Option<f64>; NAMES.len()] {
        std::array::from_fn(|at| self.series[at].all.mean())
    }

    /// The line of step `at` of the `of` steps of this epoch.
    ///
    /// # Source
    /// `MetricLogger.log_every` in `unilm/beit/utils.py`; its `max mem` is a GPU's, ours the process's on the CPU
    pub(crate) fn line(&self, at: u64, of: u64, peak_bytes: Option<u64>) -> String {
        let width = of.to_string().len();
        let eta = self.step_s.mean() * of.saturating_sub(at) as f64;
        let memory = peak_bytes
            .map(|bytes| format!("  max mem: {:.0}", bytes as f64 / f64::from(1 << 20)))
            .unwrap_or_default();
        format!(
            "Epoch: [{}]  [{at:width$}/{of}]  eta: {}  {self}  time: {}  data: {}{memory}",
            self.number,
            clock(eta),
            decimals(self.step_s.recent_mean(), 4),
            decimals(self.data_s.recent_mean(), 4),
        )
    }

    /// What is said at its end; time and s/it are of this start of the run.
    pub(crate) fn end(&self) -> String {
        let took = self.begun.elapsed().as_secs_f64();
        let each = took / self.step_s.all.count.max(1) as f64;
        format!(
            "Epoch: [{}] Total time: {} ({each:.4} s / it)\nAveraged stats: {self}",
            self.number,
            clock(took)
        )
    }
}

/// The meters, as `lr: 0.000500  …  loss: 8.9000 (9.0123)  …`: the newest learning rates, and of the rest the median of the
/// last 20 values and the mean of the epoch's.
impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (name, series)) in NAMES.iter().zip(&self.series).enumerate() {
            let gap = if at == 0 { "" } else { "  " };
            match name.ends_with("lr") {
                true => write!(f, "{gap}{name}: {}", decimals(series.newest(), 6))?,
                false => write!(
                    f,
                    "{gap}{name}: {} ({})",
                    decimals(series.median(), 4),
                    decimals(series.mean(), 4)
                )?,
            }
        }
        Ok(())
    }
}

/// As Python prints it.
fn decimals(value: f64, decimals: usize) -> String {
    if value.is_nan() { "nan".to_owned() } else { format!("{value:.decimals$}") }
}

/// Whole seconds as `str(datetime.timedelta(…))`: `0:01:02`, `1 day, 0:00:00`.
fn clock(seconds: f64) -> String {
    let whole = seconds.max(0.0) as u64;
    let (days, rest) = (whole / 86400, whole % 86400);
    let days = match days {
        0 => String::new(),
        1 => "1 day, ".to_owned(),
        days => format!("{days} days, "),
    };
    format!("{days}{}:{:02}:{:02}", rest / 3600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(loss: f64) -> Numbers {
        Numbers {
            lr: 5e-4,
            min_lr: 5e-4,
            mlm_acc: 0.25,
            loss,
            loss_scale: 1.0,
            weight_decay: 0.05,
            grad_norm: 2.0,
        }
    }

    fn step(epoch: &mut Epoch, loss: f64) {
        epoch.add(&numbers(loss), Duration::from_millis(2), Duration::from_millis(500));
    }

    #[test]
    fn the_line_is_the_references() {
        let mut epoch = Epoch::new(3, None);
        for loss in 1..=24 {
            step(&mut epoch, f64::from(loss));
        }
        // The last 20 values are 5 to 24, whose lower median is 14; the mean of all 24 is 12.5.
        assert_eq!(
            epoch.line(23, 6932, Some(3 << 20)),
            "Epoch: [3]  [  23/6932]  eta: 0:57:34  lr: 0.000500  min_lr: 0.000500  mlm_acc: 0.2500 (0.2500)  \
             loss: 14.0000 (12.5000)  loss_scale: 1.0000 (1.0000)  weight_decay: 0.0500 (0.0500)  \
             grad_norm: 2.0000 (2.0000)  time: 0.5000  data: 0.0020  max mem: 3"
        );
        let end = epoch.end();
        assert!(end.starts_with("Epoch: [3] Total time: 0:00:00 (0.0"), "{end}");
        assert!(end.contains("\nAveraged stats: lr: 0.000500  min_lr:"), "{end}");
    }

    #[test]
    fn what_is_no_number_shows_and_leaves_the_mean_alone() {
        let mut epoch = Epoch::new(0, None);
        step(&mut epoch, 2.0);
        step(&mut epoch, f64::NAN);
        step(&mut epoch, f64::INFINITY);
        let line = epoch.line(2, 5, None);
        assert!(line.contains("loss: nan (2.0000)"), "{line}");
        assert_eq!(epoch.means()[3], Some(2.0));
        let mut epoch = Epoch::new(0, None);
        step(&mut epoch, f64::NAN);
        assert_eq!(epoch.means()[3], None);
    }

    #[test]
    fn sums_survive_a_checkpoint_bit_for_bit() {
        let (mut whole, mut part) = (Epoch::new(1, None), Epoch::new(1, None));
        for at in 0..50u32 {
            let loss = 9.0 / f64::from(at + 1) + 1e-17;
            step(&mut whole, loss);
            step(&mut part, loss);
            let text = serde_json::to_string(&part.sums()).unwrap();
            part = Epoch::new(1, Some(&serde_json::from_str(&text).unwrap()));
        }
        assert_eq!(whole.sums(), part.sums());
        assert_eq!(whole.means(), part.means());
    }

    #[test]
    fn times_read_as_pythons() {
        for (seconds, text) in [
            (0.9, "0:00:00"),
            (3661.0, "1:01:01"),
            (86400.0, "1 day, 0:00:00"),
            (200_000.0, "2 days, 7:33:20"),
        ] {
            assert_eq!(clock(seconds), text);
        }
    }
}
