//! Stages: processor seconds by what they were spent on, so that one build shows where its time goes.

use serde::Serialize;
use std::sync::atomic::{AtomicU64, Ordering};

/// Processor nanoseconds of each stage, over all threads.
#[derive(Debug, Default)]
pub struct Stages {
    pub scan: AtomicU64,
    pub read: AtomicU64,
    pub decode: AtomicU64,
    pub render: AtomicU64,
    pub relayout: AtomicU64,
    pub write: AtomicU64,
    /// Images that went through them.
    pub images: AtomicU64,
    /// What the process had used before.
    pub before: u64,
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

impl Stages {
    pub fn start() -> Self {
        Self { before: process_ns(), ..Self::default() }
    }

    pub fn seconds(&self) -> CpuSeconds {
        let get = |stage: &AtomicU64| stage.load(Ordering::Relaxed) as f64 / 1e9;
        let mut seconds = CpuSeconds {
            scan: get(&self.scan),
            read: get(&self.read),
            decode: get(&self.decode),
            render: get(&self.render),
            relayout: get(&self.relayout),
            write: get(&self.write),
            ..CpuSeconds::default()
        };
        let beside = seconds.beside();
        seconds.tokenize = (process_ns().saturating_sub(self.before) as f64 / 1e9 - beside).max(0.0);
        seconds.share_beside_tokenize = beside / seconds.tokenize.max(1e-9);
        seconds
    }
}

impl CpuSeconds {
    /// All but the tokenizer.
    pub fn beside(&self) -> f64 {
        self.scan + self.read + self.decode + self.render + self.relayout + self.write
    }
}

/// Runs `work` and adds the processor time this thread spent on it.
pub fn timed<T>(stage: &AtomicU64, work: impl FnOnce() -> T) -> T {
    let before = thread_ns();
    let result = work();
    stage.fetch_add(thread_ns().saturating_sub(before), Ordering::Relaxed);
    result
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
