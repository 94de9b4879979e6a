//! The painter: a thread of its own that turns guesses into files, on the CPU, and never in anybody's way.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::Receiver;

use beit_tokenizer::{Tokenizer, TokenizerError};
use beit_views::{PatchGrid, RgbImage, encode_png};
use rustix::time::{ClockId, clock_gettime};

use super::Progress;
use super::folder::{Entry, Folder, Index};
use super::sample::Sample;
use crate::error::{TrainError, torch};
use crate::plan::{DataFacts, Plan, hex};
use crate::stats::unix_ms;

/// What the model made of the samples.
pub(super) struct Job {
    /// Steps done by then.
    pub step: u64,
    /// For each sample, the likeliest tokens of its hidden patches.
    pub guesses: Vec<Vec<u16>>,
}

/// Everything that thread needs; it takes its time over the first job, when it looks for the tokenizer.
pub(super) struct Painter {
    samples: Arc<[Sample]>,
    folder: Folder,
    progress: Arc<Progress>,
    /// Side of a view in pixels.
    px: u32,
    grid: PatchGrid,
    named: Option<String>,
    data: DataFacts,
    /// What went wrong with files, so that each kind is told once.
    told: HashSet<io::ErrorKind>,
}

/// The pictures that stay as they are: PNGs with their names.
struct Still {
    view: (String, Vec<u8>),
    masked: (String, Vec<u8>),
    truth: Option<(String, Vec<u8>)>,
}

/// What decodes tokens, or why nothing does.
struct Decoder(Result<Tokenizer, String>);

impl Painter {
    pub fn new(plan: &Plan, samples: Arc<[Sample]>, folder: Folder, progress: Arc<Progress>) -> Painter {
        Painter {
            samples,
            folder,
            progress,
            px: plan.model.image_px,
            grid: plan.grid(),
            named: plan.recipe.discrete_vae_weight_path.clone(),
            data: plan.data.clone(),
            told: HashSet::new(),
        }
    }

    /// Paints what comes until the other end hangs up.
    pub fn work(mut self, jobs: Receiver<Job>) {
        let Ok(first) = jobs.recv() else { return };
        // One thread, and only now: libtorch gives this number to threads that never asked for one, and all ranks have by now.
        let _ = beit_torch::set_threads(1);
        let mut decoder = Decoder::find(self.named.as_deref(), &self.data);
        let still = match self.still(&decoder, first.step) {
            Ok(still) => still,
            Err(error) => {
                // Damaged weights, or no memory: then without.
                decoder = Decoder(Err(error.to_string()));
                match self.still(&decoder, first.step) {
                    Ok(still) => still,
                    Err(error) => return tracing::warn!(%error, "No pictures: they can't be drawn."),
                }
            }
        };
        let (folder, why) = (self.folder.path().display(), decoder.0.as_ref().err());
        match why {
            None => tracing::info!("Pictures go to {folder}."),
            Some(why) => tracing::info!(why, "Pictures go to {folder}, without reconstructions."),
        }
        for job in std::iter::once(first).chain(jobs) {
            let before = cpu_ns();
            if let Err(error) = self.paint(&job, &decoder, &still) {
                self.tell(job.step, &error);
            }
            let spent_ns = cpu_ns() - before;
            tracing::debug!(step = job.step, processor_seconds = spent_ns as f64 / 1e9, "Painted pictures.");
            self.progress.spent_ns.store(spent_ns, Relaxed);
            self.progress.busy.store(false, Relaxed);
        }
    }

    /// Views, masked views and reconstructions of the true tokens.
    fn still(&self, decoder: &Decoder, step: u64) -> Result<Vec<Still>, TrainError> {
        let tokens: Vec<u16> = self.samples.iter().flat_map(|sample| &sample.tokens).copied().collect();
        let mut truths = decoder.images(&tokens, self.samples.len(), self.grid)?.into_iter();
        let one = |(number, sample): (usize, &Sample)| {
            let named = |kind: &str, png| (format!("{number}-{kind}-{step}.png"), png);
            let view = RgbImage { width: self.px, height: self.px, pixels: sample.pixels.clone() };
            let masked = hidden(&view, &sample.mask, self.grid);
            let truth = truths.next().map(|truth| png(&truth)).transpose()?;
            Ok(Still {
                view: named("view", png(&view)?),
                masked: named("masked", png(&masked)?),
                truth: truth.map(|truth| named("true", truth)),
            })
        };
        self.samples.iter().enumerate().map(one).collect()
    }

    fn paint(&self, job: &Job, decoder: &Decoder, still: &[Still]) -> Result<(), TrainError> {
        let write = |error| crate::error::io("writing pictures in", self.folder.path())(error);
        let guessed: Vec<(Vec<u16>, usize)> =
            self.samples.iter().zip(&job.guesses).map(|(sample, guesses)| sample.with(guesses)).collect();
        let tokens: Vec<u16> = guessed.iter().flat_map(|(tokens, _)| tokens).copied().collect();
        let mut predictions = decoder.images(&tokens, self.samples.len(), self.grid)?.into_iter();
        self.folder.create().map_err(write)?;
        let mut entries = Vec::with_capacity(self.samples.len());
        for (number, (sample, still)) in self.samples.iter().zip(still).enumerate() {
            for (name, png) in
                [Some(&still.view), Some(&still.masked), still.truth.as_ref()].into_iter().flatten()
            {
                if !self.folder.has(name) {
                    self.folder.put(name, png).map_err(write)?;
                }
            }
            let predicted = match predictions.next() {
                Some(image) => {
                    let name = format!("{number}-predicted-{}.png", job.step);
                    self.folder.put(&name, &png(&image)?).map_err(write)?;
                    Some(name)
                }
                None => None,
            };
            entries.push(Entry {
                id: sample.id.to_string(),
                masked: sample.hidden(),
                patches: sample.mask.len(),
                correct: guessed[number].1,
                view: still.view.0.clone(),
                masked_view: still.masked.0.clone(),
                truth: still.truth.as_ref().map(|(name, _)| name.clone()),
                predicted,
            });
        }
        let index = Index {
            step: job.step,
            at: unix_ms() as f64 / 1e3,
            tokenizer: decoder.0.as_ref().ok().map(|tokenizer| tokenizer.name().to_owned()),
            why_no_reconstruction: decoder.0.as_ref().err().cloned(),
            samples: entries,
        };
        self.folder.publish(&index).map_err(write)
    }

    /// Says what went wrong, if it is new.
    fn tell(&mut self, step: u64, error: &TrainError) {
        let kind = match error {
            TrainError::Io { cause, .. } => cause.kind(),
            _ => io::ErrorKind::Other,
        };
        if self.told.insert(kind) {
            tracing::warn!(step, %error, "No new pictures for now; training goes on.");
        }
    }
}

impl Decoder {
    /// The tokenizer that made the shards' tokens: the one that was named, the embedded one if it is that, or the one that
    /// lies where `beit-shard build` looks.
    fn find(named: Option<&str>, data: &DataFacts) -> Decoder {
        let ours = |tokenizer: &Tokenizer| hex(&tokenizer.digest()) == data.tokenizer_digest;
        let embedded = named.is_none().then(Tokenizer::embedded).and_then(Result::ok).filter(ours);
        let way_out = format!("set discrete_vae_weight_path to the file or folder of {}", data.tokenizer);
        let found = match embedded.map_or_else(|| Tokenizer::find(named), Ok) {
            Ok(tokenizer) if !ours(&tokenizer) => Err(format!(
                "the tokens are of {} (digest {:.12}), and the tokenizer found is {} ({:.12}); {way_out}",
                data.tokenizer,
                data.tokenizer_digest,
                tokenizer.name(),
                tokenizer.digest_hex(),
            )),
            Ok(tokenizer) if !tokenizer.has_decoder() => Err(format!(
                "tokenizer {} has no decoder; put decoder.pkl beside encoder.pkl, and {way_out}",
                tokenizer.name()
            )),
            Ok(tokenizer) => Ok(tokenizer),
            Err(TokenizerError::NoneFound { looked }) => {
                Err(format!("no tokenizer found; looked at {looked}; {way_out}"))
            }
            Err(error) => Err(format!("{error}; {way_out}")),
        };
        Decoder(found)
    }

    /// The images of `batch` grids of tokens; none without a tokenizer.
    fn images(&self, tokens: &[u16], batch: usize, grid: PatchGrid) -> Result<Vec<RgbImage>, TrainError> {
        let Ok(tokenizer) = &self.0 else { return Ok(Vec::new()) };
        let pixels =
            tokenizer.decode(tokens, batch, (grid.rows, grid.cols)).map_err(torch("decoding tokens"))?;
        let (width, height) = (grid.cols * tokenizer.stride(), grid.rows * tokenizer.stride());
        let image = |pixels: &[u8]| RgbImage { width, height, pixels: pixels.to_vec() };
        Ok(pixels.chunks_exact(pixels.len() / batch).map(image).collect())
    }
}

/// Light and dark of a hidden patch: squares with an edge, which no photo has.
const GREY: (u8, u8) = (128, 104);

/// The view with its hidden patches in grey.
///
/// # Shapes
/// `view` `[S, S, 3]`; `mask` `[N]`, row-major over `grid`, which tiles it
fn hidden(view: &RgbImage, mask: &[u8], grid: PatchGrid) -> RgbImage {
    let (height, width) = (view.height / grid.rows, view.width / grid.cols);
    let mut masked = view.clone();
    for (place, pixel) in (0..).zip(masked.pixels.chunks_exact_mut(3)) {
        let (y, x) = (place / view.width, place % view.width);
        if mask[(y / height * grid.cols + x / width) as usize] != 0 {
            let edge = y % height == 0 || x % width == 0;
            pixel.fill(if edge { GREY.1 } else { GREY.0 });
        }
    }
    masked
}

fn png(image: &RgbImage) -> Result<Vec<u8>, TrainError> {
    encode_png(image).map_err(|error| TrainError::Broken(format!("writing a PNG: {error}")))
}

/// Processor time of this thread.
fn cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_patches_are_grey_squares_and_the_rest_stays() {
        let view = RgbImage { width: 6, height: 6, pixels: (0..108).collect() };
        let masked = hidden(&view, &[0, 1, 0, 0, 0, 0, 0, 0, 1], PatchGrid { rows: 3, cols: 3 });
        for (place, (before, after)) in view.pixels.chunks(3).zip(masked.pixels.chunks(3)).enumerate() {
            let (y, x) = (place / 6, place % 6);
            let expected = match (y, x) {
                (1, 3) | (5, 5) => [128; 3].as_slice(),
                (0 | 1, 2 | 3) | (4 | 5, 4 | 5) => &[104; 3],
                _ => before,
            };
            assert_eq!(after, expected, "row {y}, column {x}");
        }
    }
}
