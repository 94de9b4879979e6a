//! Stages: what each stage of the packing line has done: images in and out, when, and on how much processor time, so that
//! one build shows where its time goes, and one that stands still shows where.

use crate::tally::unix_now;
use serde::Serialize;
use std::sync::atomic::{AtomicU64, Ordering};

/// One stage of the line.
#[derive(Debug, Default)]
pub struct Stage {
    cpu_ns: AtomicU64,
    entered: AtomicU64,
    left: AtomicU64,
    /// Seconds since 1970, as bits; 0: not yet.
    last: AtomicU64,
}

/// All stages, in the order in which an image passes them.
#[derive(Debug, Default)]
pub struct Stages {
    pub scan: Stage,
    pub read: Stage,
    pub decode: Stage,
    pub relayout: Stage,
    pub render: Stage,
    /// Its processor time is what the others leave over, see [`CpuSeconds::tokenize`].
    pub tokenize: Stage,
    pub write: Stage,
    /// Bytes of the images that were read.
    pub source_bytes: AtomicU64,
    /// What the process had used before.
    before: u64,
}

/// Processor seconds by stage.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct CpuSeconds {
    pub scan: f64,
    pub read: f64,
    pub decode: f64,
    pub render: f64,
    pub relayout: f64,
    pub write: f64,
    /// All that the process used beside the other stages: the tokenizer's own threads cannot be asked one by one.
    pub tokenize: f64,
    /// Everything but the tokenizer, as a share of the tokenizer.
    pub share_beside_tokenize: f64,
}

impl Stage {
    /// Runs `work` and adds the processor time this thread spent on it.
    pub fn timed<T>(&self, work: impl FnOnce() -> T) -> T {
        let before = thread_ns();
        let result = work();
        self.spent(thread_ns().saturating_sub(before));
        result
    }

    /// The same for work on one image, which is in progress until then; waiting costs no processor time.
    pub fn image<T>(&self, work: impl FnOnce() -> T) -> T {
        self.enter(1);
        let result = self.timed(work);
        self.leave(1);
        result
    }

    /// Processor time that was spent here.
    pub fn spent(&self, ns: u64) {
        self.cpu_ns.fetch_add(ns, Ordering::Relaxed);
    }

    pub fn enter(&self, images: u64) {
        self.entered.fetch_add(images, Ordering::Relaxed);
        self.touch();
    }

    pub fn leave(&self, images: u64) {
        self.left.fetch_add(images, Ordering::Relaxed);
        self.touch();
    }

    fn touch(&self) {
        self.last.store(unix_now().to_bits(), Ordering::Relaxed);
    }

    /// Images that came in, and those that have left; never more of these.
    pub fn images(&self) -> (u64, u64) {
        let left = self.left.load(Ordering::Relaxed);
        (self.entered.load(Ordering::Relaxed).max(left), left)
    }

    /// When an image last came in or left, in seconds since 1970; 0: not yet.
    pub fn last(&self) -> f64 {
        f64::from_bits(self.last.load(Ordering::Relaxed))
    }
}

impl Stages {
    pub fn start() -> Self {
        Self { before: process_ns(), ..Self::default() }
    }

    /// Every stage with its name.
    pub fn named(&self) -> [(&'static str, &Stage); 7] {
        let Self { scan, read, decode, relayout, render, tokenize, write, .. } = self;
        [
            ("scan", scan),
            ("read", read),
            ("decode", decode),
            ("relayout", relayout),
            ("render", render),
            ("tokenize", tokenize),
            ("write", write),
        ]
    }

    pub fn seconds(&self) -> CpuSeconds {
        let get = |stage: &Stage| stage.cpu_ns.load(Ordering::Relaxed) as f64 / 1e9;
        let mut seconds = CpuSeconds {
            scan: get(&self.scan),
            read: get(&self.read),
            decode: get(&self.decode),
            render: get(&self.render),
            relayout: get(&self.relayout),
            write: get(&self.write),
            ..CpuSeconds::default()
        };
        let used = process_ns().saturating_sub(self.before) as f64 / 1e9;
        seconds.tokenize = (used - seconds.beside()).max(0.0);
        seconds.with_share()
    }
}

impl CpuSeconds {
    /// All but the tokenizer.
    pub fn beside(&self) -> f64 {
        self.scan + self.read + self.decode + self.render + self.relayout + self.write
    }

    /// What was spent after `before`.
    pub fn since(self, before: Self) -> Self {
        Self {
            scan: self.scan - before.scan,
            read: self.read - before.read,
            decode: self.decode - before.decode,
            render: self.render - before.render,
            relayout: self.relayout - before.relayout,
            write: self.write - before.write,
            tokenize: (self.tokenize - before.tokenize).max(0.0),
            share_beside_tokenize: 0.0,
        }
        .with_share()
    }

    /// The stages with their names, as [`Stages::named`] has them.
    pub fn named(&self) -> [(&'static str, f64); 7] {
        let Self { scan, read, decode, render, relayout, write, tokenize, .. } = *self;
        [
            ("scan", scan),
            ("read", read),
            ("decode", decode),
            ("relayout", relayout),
            ("render", render),
            ("tokenize", tokenize),
            ("write", write),
        ]
    }

    fn with_share(mut self) -> Self {
        self.share_beside_tokenize = self.beside() / self.tokenize.max(1e-9);
        self
    }
}

/// Processor time of this thread.
pub fn thread_ns() -> u64 {
    clock(rustix::time::ClockId::ThreadCPUTime)
}

fn process_ns() -> u64 {
    clock(rustix::time::ClockId::ProcessCPUTime)
}

fn clock(id: rustix::time::ClockId) -> u64 {
    let now = rustix::time::clock_gettime(id);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

impl std::fmt::Display for CpuSeconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { scan, read, decode, render, relayout, write, tokenize, share_beside_tokenize } = self;
        write!(
            f,
            "scan {scan:.1} s, read {read:.1} s, decode {decode:.1} s, render {render:.1} s, relayout {relayout:.1} s, write \
             {write:.1} s, tokenize {tokenize:.1} s (the others are {:.1} % of it)",
            100.0 * share_beside_tokenize
        )
    }
}
