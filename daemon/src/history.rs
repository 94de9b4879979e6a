//! The course of a run: a bounded number of points over all its steps, kept in `history.jsonl` of the run directory.
//!
//! ```text
//! a report ─▶ a point, if its step is far enough from the last one ─▶ one more line in history.jsonl
//!                │ full: every second point goes, the distance doubles ─▶ the file is replaced
//!                └ the run goes back to a checkpoint: later points go   ─▶ the file is replaced
//! ```
//! A point is what one step really gave, never a mean. A kill in the middle of a line loses that line; a write that
//! fails loses nothing that the next one cannot repair, and never disturbs the run.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Deserializer, Serialize};

use crate::board::now;
use crate::wire::Sample;

/// Points kept.
pub const POINTS: usize = 2048;

/// A longer file is not ours: points and the lines of as many thinnings as one never writes fit many times.
const FILE_BYTES: u64 = 8 << 20;

/// How long to leave a file alone that could not be written.
const RETRY_AFTER: Duration = Duration::from_secs(10);

/// One moment of a run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Steps done.
    pub step: u64,
    /// When the step ended, seconds since 1970.
    pub at: f64,
    /// Mean loss of the step in nats; NaN travels as null, here and below.
    #[serde(deserialize_with = "or_nan")]
    pub loss: f32,
    /// Share of hidden tokens predicted right, 0 to 1.
    #[serde(deserialize_with = "or_nan")]
    pub mlm_acc: f32,
    /// Learning rate.
    #[serde(deserialize_with = "or_nan")]
    pub lr: f32,
    /// Global gradient norm before clipping.
    #[serde(deserialize_with = "or_nan")]
    pub grad_norm: f32,
    /// Samples per second over the last stretch.
    #[serde(deserialize_with = "or_nan")]
    pub samples_per_second: f32,
    /// Share of their time that ranks have waited for data since the point before, 0 to 1.
    #[serde(deserialize_with = "or_nan")]
    pub data_wait_ratio: f32,
}

/// Points as columns of equal length.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Columns {
    step: Vec<u64>,
    at: Vec<f64>,
    loss: Vec<f32>,
    mlm_acc: Vec<f32>,
    lr: Vec<f32>,
    grad_norm: Vec<f32>,
    samples_per_second: Vec<f32>,
    data_wait_ratio: Vec<f32>,
}

/// The history of one run. Readers never wait for a disk.
#[derive(Debug, Default)]
pub struct History {
    line: Mutex<Line>,
    page: Option<Mutex<Page>>,
}

/// The points in memory.
#[derive(Debug, Default)]
struct Line {
    points: Vec<Point>,
    /// Steps between two points, at least.
    every: u64,
    /// The last report of this worker's: when, and how long its ranks had waited for data.
    waited: Option<(f64, f64)>,
}

/// The points on disk.
#[derive(Debug)]
struct Page {
    path: PathBuf,
    file: Option<File>,
    failed: Option<Instant>,
}

impl History {
    /// Takes up the history in this file and goes on with it.
    ///
    /// What cannot be read of it is left out: it is a picture of the run, not part of it.
    pub fn open(path: PathBuf) -> History {
        let (points, whole) = read(&path);
        let mut page = Page { path, file: None, failed: None };
        if whole {
            page.file = OpenOptions::new().append(true).create(true).open(&page.path).ok();
        } else {
            page.replace(&points);
        }
        let mut line = Line { points, ..Line::default() };
        line.thin();
        History { line: Mutex::new(line), page: Some(Mutex::new(page)) }
    }

    /// Takes a report in; returns the point it became, if its step is far enough from the last one, or `anyway`.
    pub fn add(&self, sample: &Sample, samples_per_second: f64, anyway: bool) -> Option<Point> {
        let at = sample.last_step_at?;
        let mut line = self.lock();
        let (point, thinned) = line.add(sample, at, samples_per_second, anyway)?;
        let all = (thinned || self.must_replace()).then(|| line.points.clone());
        drop(line);
        self.write(|page| match &all {
            Some(points) => page.replace(points),
            None => page.append(&point),
        });
        Some(point)
    }

    /// A worker goes on from this step: what came after it will come again.
    pub fn go_back_to(&self, step: u64) {
        let mut line = self.lock();
        line.waited = None;
        let kept = line.points.partition_point(|point| point.step <= step);
        if kept == line.points.len() {
            return;
        }
        line.points.truncate(kept);
        line.every = line.distance();
        let points = line.points.clone();
        drop(line);
        self.write(|page| page.replace(&points));
    }

    /// The points after step `since`, or all; no more than `most`, evenly chosen, the newest among them.
    pub fn columns(&self, since: Option<u64>, most: usize) -> Columns {
        let line = self.lock();
        let first = since.map_or(0, |since| line.points.partition_point(|point| point.step <= since));
        let points = &line.points[first..];
        let mut columns = Columns::default();
        let most = most.clamp(1, POINTS).min(points.len());
        for nth in 0..most {
            // From the first to the last point, both included; one alone is the last.
            let last = points.len() - 1;
            columns.push(&points[if most == 1 { last } else { nth * last / (most - 1) }]);
        }
        columns
    }

    fn must_replace(&self) -> bool {
        self.page.as_ref().is_some_and(|page| locked(page).file.is_none())
    }

    fn write(&self, change: impl FnOnce(&mut Page)) {
        if let Some(page) = &self.page {
            change(&mut locked(page));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Line> {
        locked(&self.line)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Line {
    /// Whether a point came of it, and whether others had to go for it.
    fn add(&mut self, sample: &Sample, at: f64, speed: f64, anyway: bool) -> Option<(Point, bool)> {
        if let Some(last) = self.points.last() {
            let distance = sample.step.checked_sub(last.step).filter(|distance| *distance > 0)?;
            if distance < self.every && !anyway {
                return None;
            }
        }
        let waited: f64 = sample.ranks.iter().map(|rank| rank.data_wait_seconds).sum();
        let ratio = match self.waited {
            Some((then, before)) if at > then && !sample.ranks.is_empty() => {
                ((waited - before) / (at - then) / sample.ranks.len() as f64).clamp(0.0, 1.0)
            }
            _ => f64::NAN,
        };
        self.waited = Some((at, waited));
        let point = Point {
            step: sample.step,
            at: (at * 1e3).round() / 1e3,
            loss: sample.loss as f32,
            mlm_acc: sample.mlm_acc as f32,
            lr: sample.lr as f32,
            grad_norm: sample.grad_norm as f32,
            samples_per_second: speed as f32,
            data_wait_ratio: ratio as f32,
        };
        self.points.push(point);
        Some((point, self.thin()))
    }

    /// Lets every second point go if there are too many; the first and the last stay.
    fn thin(&mut self) -> bool {
        let full = self.points.len() >= POINTS;
        while self.points.len() >= POINTS {
            let last = self.points.len() - 1;
            let mut at = 0..;
            self.points.retain(|_| at.next().is_some_and(|at| at == 0 || (last - at).is_multiple_of(2)));
        }
        if full || self.every == 0 {
            self.every = self.distance();
        }
        full
    }

    /// Steps between two points: 1 as long as there is room, then what the points have on average.
    fn distance(&self) -> u64 {
        match (self.points.first(), self.points.last()) {
            (Some(first), Some(last)) if self.points.len() >= POINTS / 2 => {
                ((last.step - first.step) / self.points.len() as u64).max(1)
            }
            _ => 1,
        }
    }
}

impl Page {
    /// Adds one line. A file that could not be written is replaced as a whole later.
    fn append(&mut self, point: &Point) {
        let Some(file) = &mut self.file else { return };
        if let Err(error) = file.write_all(&text(std::slice::from_ref(point))) {
            self.lost(&error);
        }
    }

    /// Puts these points in place of the file's.
    fn replace(&mut self, points: &[Point]) {
        if self.failed.is_some_and(|at| at.elapsed() < RETRY_AFTER) {
            return;
        }
        match publish(&self.path, &text(points)) {
            Ok(file) => {
                self.file = Some(file);
                self.failed = None;
            }
            Err(error) => self.lost(&error),
        }
    }

    fn lost(&mut self, error: &io::Error) {
        if self.failed.is_none() {
            tracing::warn!(
                "The history cannot be written to {}: {error}. It stays in memory and is written when there is room.",
                self.path.display()
            );
        }
        self.file = None;
        self.failed = Some(Instant::now());
    }
}

impl Columns {
    fn push(&mut self, point: &Point) {
        self.step.push(point.step);
        self.at.push(point.at);
        self.loss.push(point.loss);
        self.mlm_acc.push(point.mlm_acc);
        self.lr.push(point.lr);
        self.grad_norm.push(point.grad_norm);
        self.samples_per_second.push(point.samples_per_second);
        self.data_wait_ratio.push(point.data_wait_ratio);
    }
}

fn text(points: &[Point]) -> Vec<u8> {
    let mut text = Vec::with_capacity(200 * points.len());
    for point in points {
        // Numbers in memory always have a text.
        let _ = serde_json::to_writer(&mut text, point);
        text.push(b'\n');
    }
    text
}

/// Writes a file so that a reader, or a kill, finds the old one or the new one; returns it open at its end.
fn publish(path: &Path, bytes: &[u8]) -> io::Result<File> {
    let temporary = path.with_extension("jsonl.tmp");
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    if let Some(folder) = path.parent() {
        File::open(folder)?.sync_all()?;
    }
    OpenOptions::new().append(true).open(path)
}

/// Points in a file, in the order of their steps, and whether they are all that is in it.
fn read(path: &Path) -> (Vec<Point>, bool) {
    let mut bytes = Vec::new();
    match File::open(path).and_then(|file| file.take(FILE_BYTES).read_to_end(&mut bytes)) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return (Vec::new(), true),
        Err(error) => {
            tracing::warn!("The history in {} cannot be read: {error}.", path.display());
            return (Vec::new(), false);
        }
    }
    let mut whole = bytes.is_empty() || bytes.ends_with(b"\n");
    let mut points: Vec<Point> = Vec::new();
    for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        match serde_json::from_slice::<Point>(line) {
            // A clock that was wrong, or a file that was mended by hand, is no reason to refuse.
            Ok(point) if point.at.is_finite() && point.at <= now() + 86400.0 => {
                let kept = points.partition_point(|before| before.step < point.step);
                whole &= kept == points.len();
                points.truncate(kept);
                points.push(point);
            }
            _ => whole = false,
        }
    }
    (points, whole)
}

fn or_nan<'de, D: Deserializer<'de>>(input: D) -> Result<f32, D::Error> {
    Ok(Option::<f32>::deserialize(input)?.unwrap_or(f32::NAN))
}

#[cfg(test)]
mod tests;
