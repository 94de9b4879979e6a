//! A worker: claims a sample, reads, renders and masks it, and says so.

use crate::corrupt::Added;
use crate::error::LoaderError;
use crate::loader::Shared;
use crate::order::{Epochs, Placed};
use crate::ring::{Claim, Claimed};
use crate::slot::SampleMut;
use crate::stats::{Tally, Task};
use beit_shards::{PAYLOAD_JPEG, PAYLOAD_RGB, ReadBuf};
use beit_views::{
    DecodeError, Limits, Payload, PayloadKind, Purpose, Renderer, RgbImage, SeedKey, StageTimes, View,
    contrast_grey, decode, draw_mask,
};
use rustix::time::{ClockId, clock_gettime};
use std::sync::atomic::Ordering;
use std::time::Instant;

/// Samples after which a worker adds its counts to the common ones.
const FLUSH: u64 = 16;

/// The ring's time is taken of one sample in so many: a clock of processor time costs as much as the ring itself. Prime
/// to any batch size in use, so that the publishing of batches has its share.
const HANDOFF_EVERY: u64 = 7;

/// One thread's buffers and counts; nothing in it grows once it has met the largest record and crop.
pub(crate) struct Worker<'a> {
    number: usize,
    shared: &'a Shared,
    buf: ReadBuf,
    renderer: Renderer,
    epochs: Epochs,
    tally: Tally,
    cpu_ns: u64,
}

/// Why a sample cannot be shown.
struct Damage {
    reason: &'static str,
    message: String,
}

impl<'a> Worker<'a> {
    /// Worker `number` of the pool, from 0.
    pub fn new(number: usize, shared: &'a Shared) -> Worker<'a> {
        Worker {
            number,
            shared,
            buf: ReadBuf::new(),
            renderer: Renderer::new(),
            epochs: Epochs::new(shared.order),
            tally: Tally::default(),
            cpu_ns: cpu_ns(),
        }
    }

    /// Works until the run is over.
    ///
    /// # Errors
    /// when too many records are corrupt
    pub fn run(&mut self) -> Result<(), LoaderError> {
        let done = self.work();
        self.enter(Task::Ring);
        self.flush();
        done
    }

    fn work(&mut self) -> Result<(), LoaderError> {
        let mut count: u64 = 0;
        let clock_ns = clock_cost_ns();
        loop {
            let timed = count.is_multiple_of(HANDOFF_EVERY);
            let clock = || if timed { cpu_ns() } else { 0 };
            let asked = clock();
            let mut claim = match self.shared.slots.claim() {
                Claimed::Sample(claim) => claim,
                Claimed::Full => {
                    self.flush();
                    let asked = Instant::now();
                    self.shared.slots.wait_for_space();
                    self.tally.idle_ns += nanoseconds(asked, Instant::now());
                    continue;
                }
                Claimed::Over => return Ok(()),
            };
            let claimed = clock();
            let rank = claim.rank;
            if claim.sample == 0 {
                self.shared.stats.ranks[rank].begun.fetch_add(1, Ordering::Relaxed);
            }
            self.fill(&mut claim)?;
            self.enter(Task::Ring);
            let filled = clock();
            if self.shared.slots.finish(claim) {
                self.shared.stats.ranks[rank].published.fetch_add(1, Ordering::Relaxed);
            }
            self.tally.images += 1;
            let taken = claimed - asked + clock() - filled;
            self.tally.handoff_ns += HANDOFF_EVERY * taken.saturating_sub(2 * clock_ns);
            count += 1;
            if self.tally.images >= FLUSH {
                self.flush();
            }
        }
    }

    /// Fills the claimed place with the sample whose turn it is, or with the next in the epoch's order that is sound.
    fn fill(&mut self, claim: &mut Claim) -> Result<(), LoaderError> {
        let shared = self.shared;
        self.enter(Task::Read);
        let started = Instant::now();
        let placed = self.epochs.at(shared.position(claim.rank, claim.step, claim.sample as u64));
        self.read_ahead(claim, placed);
        self.tally.read_ns += nanoseconds(started, Instant::now());

        let mut out = shared.slots.sample_mut(claim);
        let mut sample = placed.sample;
        let mut place = placed.place;
        let samples = shared.order.samples(placed.epoch);
        for _ in 0..samples {
            match self.load(sample, placed, &mut out) {
                Ok(()) => return Ok(()),
                Err(damage) => self.report(sample, damage)?,
            }
            place = (place + 1) % samples;
            sample = self.epochs.epoch(placed.epoch).sample(place);
        }
        Err(LoaderError::AllCorrupt { dir: shared.options.shards.dir().to_owned() })
    }

    /// Asks the kernel for what comes some time after a claimed sample.
    fn read_ahead(&mut self, claim: &Claim, placed: Placed) {
        let Shared { options, ahead, .. } = self.shared;
        if options.read_ahead == 0
            || ahead
                .next_window(&mut self.epochs, placed, |sample, view| options.shards.will_need(sample, view))
        {
            return;
        }
        let position = self.shared.ahead(claim.rank, claim.step, claim.sample as u64);
        let later = self.epochs.at(position);
        options.shards.will_need(later.sample, later.view);
    }

    /// Loads one sample with the view and the mask of `placed`'s epoch.
    fn load(&mut self, sample: u64, placed: Placed, out: &mut SampleMut<'_>) -> Result<(), Damage> {
        let Shared { options, spec, stats, .. } = self.shared;
        let tally = &mut self.tally;
        stats.enter(self.number, Task::Read);
        tally.asked += 1;
        let started = Instant::now();
        let read = options.shards.read(sample, placed.view, &mut self.buf);
        let was_read = Instant::now();
        tally.read_ns += nanoseconds(started, was_read);
        let record = read.map_err(|error| Damage { reason: error.reason(), message: error.to_string() })?;
        tally.records += 1;
        stats.enter(self.number, Task::View);
        let kind = match record.payload_kind {
            PAYLOAD_JPEG => PayloadKind::Jpeg,
            PAYLOAD_RGB => PayloadKind::Rgb,
            kind => {
                return Err(Damage {
                    reason: "unsupported",
                    message: format!("payload kind {kind} is unknown"),
                });
            }
        };
        let (width, height) = (record.width, record.height);
        if width == 0 || height == 0 || record.tokens.len() != out.tokens.len() {
            let tokens = record.tokens.len();
            let message = format!("a {width}x{height} image with {tokens} tokens cannot be shown");
            return Err(Damage { reason: "malformed", message });
        }

        let seed = self.shared.options.shards.spec().seed;
        // Epochs beyond 2^32 would need more samples than a position can count.
        let index = placed.epoch as u32;
        let k = if options.fresh_views { index } else { placed.view };
        let view = View::draw(spec, width, height, SeedKey::view(seed, record.id.0, k));
        let key = SeedKey { seed: options.seed, stream: record.id.0, index, purpose: Purpose::Mask };
        draw_mask(options.grid, &options.mask, key, out.mask);
        let masked = Instant::now();
        tally.mask_ns += nanoseconds(was_read, masked);

        let mut times = StageTimes::default();
        let payload = Payload { kind, width, height, bytes: record.payload };
        let (px, interpolation) = (options.view_px, options.interpolation);
        let rendered = match options.fresh_views {
            false => self.renderer.render_payload(
                payload,
                &view,
                record.grey,
                px,
                interpolation,
                out.pixels,
                &mut times,
            ),
            true => whole(payload).map(|image| {
                let grey = contrast_grey(&image, &view.jitter);
                self.renderer.render_image(&image, &view, grey, px, interpolation, out.pixels);
                let (px, interpolation) = (spec.token_px, spec.token_interpolation);
                self.renderer.render_image(&image, &view, grey, px, interpolation, out.token_pixels);
            }),
        };
        if !record.is_intact() {
            // The file shrank while its pixels were decoded, whatever came of that: this time the read itself will tell.
            return self.load(sample, placed, out);
        }
        rendered.map_err(|error| Damage { reason: error.reason(), message: error.to_string() })?;
        tally.decode.add(match options.fresh_views {
            false => times.entropy_ns + times.idct_ns + times.jitter_ns + times.resize_ns,
            true => nanoseconds(masked, Instant::now()), // it does not take the times of its parts
        });
        tally.entropy_ns += times.entropy_ns;
        tally.idct_ns += times.idct_ns;
        tally.jitter_ns += times.jitter_ns;
        tally.resize_ns += times.resize_ns;
        tally.bytes += record.payload.len() as u64;
        out.tokens.copy_from_slice(record.tokens);
        *out.id = record.id;
        Ok(())
    }

    /// Counts a corrupt record, names it if it is new, and says when there are too many.
    fn report(&self, sample: u64, damage: Damage) -> Result<(), LoaderError> {
        let Shared { options, stats, .. } = self.shared;
        match stats.corrupt.add(&options.shards, sample, damage.reason, damage.message) {
            Added::Known => Ok(()),
            Added::New { record, found } => {
                if let Some(on_corrupt) = &options.on_corrupt {
                    on_corrupt(&record);
                }
                let max = options.max_corrupt;
                if found > max {
                    return Err(LoaderError::TooManyCorrupt { max, last: record });
                }
                Ok(())
            }
        }
    }

    fn enter(&self, task: Task) {
        self.shared.stats.enter(self.number, task);
    }

    fn flush(&mut self) {
        let now = cpu_ns();
        self.tally.cpu_ns += now - self.cpu_ns;
        self.cpu_ns = now;
        self.tally.flush(&self.shared.stats);
    }
}

/// All of an image.
fn whole(payload: Payload<'_>) -> Result<RgbImage, DecodeError> {
    let Payload { kind, width, height, bytes } = payload;
    let image = match kind {
        PayloadKind::Jpeg => decode(bytes, &Limits::default())?,
        PayloadKind::Rgb => RgbImage { width, height, pixels: bytes.to_vec() },
    };
    let pixels = u128::from(width) * u128::from(height) * 3;
    if (image.width, image.height) != (width, height) || image.pixels.len() as u128 != pixels {
        return Err(DecodeError::Corrupt {
            detail: "payload: its size is not what its record says".to_owned(),
        });
    }
    Ok(image)
}

/// Processor time of this thread.
pub(crate) fn cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// What looking at that clock costs, which it counts as well.
fn clock_cost_ns() -> u64 {
    (0..32).map(|_| cpu_ns().abs_diff(cpu_ns())).min().unwrap_or_default()
}

fn nanoseconds(from: Instant, to: Instant) -> u64 {
    (to - from).as_nanos() as u64
}
