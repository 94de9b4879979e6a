//! What a long build says while it works: a bar with rate and ETA on a terminal, a line now and then elsewhere.

use crate::stages::CpuSeconds;
use crate::tally::Tally;
use indicatif::{HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// How often a build without a terminal says where it is.
const LINE_EVERY: Duration = Duration::from_secs(30);

/// Progress of a build, counted in images.
pub struct Progress<'a> {
    tally: &'a Tally,
    /// What the process had spent before.
    before: CpuSeconds,
    bar: ProgressBar,
    started: Instant,
    last_line: Instant,
    views: u64,
    /// Images packed or quarantined by this process.
    done: u64,
    quarantined: u64,
    /// How far the listing is, until its end is known.
    listing: String,
    on_terminal: bool,
}

impl<'a> Progress<'a> {
    /// A line begins: `views` is K, `already` the images of finished shards.
    pub fn new(views: u32, already: u64, tally: &'a Tally) -> Self {
        tally.line_begins(already);
        let on_terminal = std::io::stderr().is_terminal();
        let bar = ProgressBar::with_draw_target(
            None,
            if on_terminal { ProgressDrawTarget::stderr_with_hz(5) } else { ProgressDrawTarget::hidden() },
        );
        let style = ProgressStyle::with_template(
            "{bar:30} {human_pos}/{human_len} images  {per_sec}  {msg}ETA {eta}",
        );
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_position(already);
        bar.reset_eta();
        let now = Instant::now();
        Self {
            tally,
            before: tally.stages.seconds(),
            bar,
            started: now,
            last_line: now,
            views: u64::from(views),
            done: 0,
            quarantined: 0,
            listing: String::new(),
            on_terminal,
        }
    }

    /// The listing has this many images so far, or altogether.
    pub fn listed(&mut self, images: u64, all: bool) {
        if all {
            self.bar.set_length(images);
            self.listing = String::new();
        } else {
            let rate = images as f64 / self.started.elapsed().as_secs_f64().max(1e-9);
            self.listing = format!("listed {} files, {}/s  ", HumanCount(images), HumanCount(rate as u64));
        }
    }

    /// One image was packed, with this many tokens per view, or kept out.
    pub fn image(&mut self, quarantined: bool) {
        self.done += 1;
        self.quarantined += u64::from(quarantined);
        self.bar.inc(1);
        if !self.on_terminal && self.last_line.elapsed() >= LINE_EVERY {
            self.last_line = Instant::now();
            tracing::info!(
                images = self.bar.position(),
                of = self.bar.length(),
                quarantined = self.quarantined,
                images_per_s = format_args!("{:.1}", self.images_per_s()),
                eta_s = self.eta_seconds(),
                listing = (!self.listing.is_empty()).then(|| self.listing.trim_end()),
                "Packing."
            );
        }
    }

    /// Refreshes the words beside the bar.
    pub fn tokens_per_view(&self, tokens: u64) {
        let rate = self.images_per_s() * (self.views * tokens) as f64;
        let bad = match self.quarantined {
            0 => String::new(),
            n => format!("{n} quarantined  "),
        };
        self.bar.set_message(format!("{} tokens/s  {bad}{}", HumanCount(rate as u64), self.listing));
    }

    /// Images per second of this process so far.
    pub fn images_per_s(&self) -> f64 {
        self.done as f64 / self.started.elapsed().as_secs_f64().max(1e-9)
    }

    /// Seconds to go at the rate so far, once the listing's end is known.
    fn eta_seconds(&self) -> Option<u64> {
        let left = self.bar.length()?.checked_sub(self.bar.position())?;
        Some((left as f64 / self.images_per_s().max(1e-9)) as u64)
    }

    /// Images this process has dealt with.
    pub fn done(&self) -> u64 {
        self.done
    }

    /// What is counted beside the bar.
    pub fn tally(&self) -> &'a Tally {
        self.tally
    }

    /// Processor time since the start.
    pub fn cpu_seconds(&self) -> CpuSeconds {
        self.tally.stages.seconds().since(self.before)
    }

    /// Seconds since the start.
    pub fn seconds(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
