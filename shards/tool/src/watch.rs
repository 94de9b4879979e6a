//! `beit-shard watch`: packs what arrives in a source into new shards, and publishes the set anew each time.
//!
//! ```text
//! kernel's notices (or a timer) ─▶ round: list the source ─▶ what the catalog lacks and nobody is still writing ─▶ the packing
//! line of a build ─▶ one more shard ─▶ catalog, manifest: a new generation ─▶ wait
//! ```
//! The set only grows: published shards stay, new ones follow, new classes are added behind the old ones, so that every label
//! and every sample index keeps its meaning and a running daemon can take the new generation up between two epochs. A notice
//! says only *that* something changed: what changed is found by listing, so none can be missed.

use crate::build::{self, Job};
use crate::pack::Packer;
use crate::progress::Progress;
use crate::source::{Place, Source};
use crate::tally::Tally;
use anyhow::{Context, Result, ensure};
use beit_shards::{Catalog, SampleId};
use notify::{RecursiveMode, Watcher};
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant, SystemTime};

/// How long a notice is followed by silence before the source is listed: a copy of many files is one round.
const QUIET: Duration = Duration::from_millis(500);
/// How often a wait looks whether the user wants to stop.
const TICK: Duration = Duration::from_millis(200);

/// Pack what arrives in a source into new shards, and publish the set anew each time
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    beit-shard watch photos/ --tokenizer embedded          pack what is there, then whatever arrives\n  \
    beit-shard watch photos/ --tokenizer embedded --once   pack what is new since the last time, then exit (for cron)\n  \
    beit-shard watch photos/ --tokenizer embedded --listen 127.0.0.1:9778   with numbers for Prometheus at /metrics\n\n\
    A running beit-daemon takes new samples up at its next epoch. Give the same options each time. Which shard a sample\n\
    lands in follows from when it arrived; its id, views and tokens do not.")]
pub struct Args {
    #[command(flatten)]
    build: build::Args,
    /// Pack what is new, then exit
    #[arg(long)]
    once: bool,
    /// Seconds for which a file must have been left alone before it is packed
    #[arg(long, default_value_t = 3.0, value_parser = parse_seconds)]
    settle: f64,
    /// Seconds after which the source is listed even if the kernel tells of no change (on network file systems it never does)
    #[arg(long, default_value_t = 300.0, value_parser = parse_seconds)]
    rescan: f64,
}

fn parse_seconds(text: &str) -> Result<f64> {
    let seconds: f64 = text.parse().context("expected a number of seconds")?;
    ensure!((0.0..=1e6).contains(&seconds), "expected seconds from 0 to a million");
    Ok(seconds)
}

/// What one look at the source gave.
#[derive(Debug, Default)]
struct Round {
    /// Files that somebody may still be writing.
    unsettled: u64,
    /// There is more than fits into one shard.
    more: bool,
}

/// Packs until the user stops it, or, with `--once`, until nothing is new.
pub fn run(args: &Args) -> Result<ExitCode> {
    ensure!(args.build.part.is_none(), "a part of a set cannot grow; watch without --part");
    let stop = build::stop_on_signals()?;
    let tally = build::tally(&args.build)?;
    // Before the first listing, so that nothing falls between the two.
    let (notices, _watcher) = watch(args)?;
    let out = build::output(&args.build)?;
    let job = Job::of(&args.build)?;
    loop {
        let round = grow(args, &job, &out, (&tally, &stop))?;
        if stop.load(Ordering::SeqCst) {
            break;
        }
        match (round.more, args.once, round.unsettled) {
            (true, ..) => {}
            (false, true, 0) => return Ok(ExitCode::SUCCESS),
            (false, true, _) => pause(Duration::from_secs_f64(args.settle), &stop),
            (false, false, 0) => wait(&notices, Duration::from_secs_f64(args.rescan), &stop),
            (false, false, _) => wait(&notices, Duration::from_secs_f64(args.settle), &stop),
        }
        if stop.load(Ordering::SeqCst) {
            break;
        }
    }
    eprintln!(
        "beit-shard: stopped watching; {} is whole, and the same command goes on from there",
        out.display()
    );
    Ok(if args.once { ExitCode::from(130) } else { ExitCode::SUCCESS })
}

/// Asks the kernel to tell of changes below the sources. Where it cannot, the timer has to do.
fn watch(args: &Args) -> Result<(Receiver<()>, Option<notify::RecommendedWatcher>)> {
    let (sender, notices) = channel();
    if args.once {
        return Ok((notices, None));
    }
    let tell = move |event: notify::Result<notify::Event>| {
        // Being read is no change; an error (an overflow of the queue, say) may hide one.
        if !matches!(event, Ok(notify::Event { kind: notify::EventKind::Access(access), .. })
            if !matches!(access, notify::event::AccessKind::Close(notify::event::AccessMode::Write)))
        {
            let _ = sender.send(()); // nobody listens any more at the end
        }
    };
    let watching = notify::recommended_watcher(tell).and_then(|mut watcher| {
        for source in &args.build.sources {
            watcher.watch(source, RecursiveMode::Recursive)?;
        }
        Ok(watcher)
    });
    match watching {
        Ok(watcher) => Ok((notices, Some(watcher))),
        Err(error) => {
            ensure!(
                args.rescan > 0.0,
                "the kernel cannot tell of changes here ({error}) and --rescan 0 asks for no listing; give --rescan SECONDS"
            );
            tracing::warn!(%error, every_s = args.rescan, "The kernel cannot tell of changes here; the source is listed by the clock.");
            Ok((notices, None))
        }
    }
}

/// Sleeps until something changes (and then is quiet), time is up, or the user wants to stop.
fn wait(notices: &Receiver<()>, most: Duration, stop: &AtomicBool) {
    let started = Instant::now();
    let most = if most.is_zero() { Duration::MAX } else { most };
    while !stop.load(Ordering::SeqCst) && started.elapsed() < most {
        match notices.recv_timeout(TICK.min(most)) {
            Ok(()) => {
                while notices.recv_timeout(QUIET).is_ok() && started.elapsed() < most {}
                return;
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => pause(TICK, stop),
        }
    }
}

fn pause(time: Duration, stop: &AtomicBool) {
    let started = Instant::now();
    while !stop.load(Ordering::SeqCst) && started.elapsed() < time {
        std::thread::sleep(TICK.min(time));
    }
}

/// Whether the sources are folders without a single image.
fn is_empty(args: &Args) -> Result<bool> {
    if args.build.sources.iter().all(|source| source.is_dir()) {
        let Ok(source) = Source::open(&args.build.sources) else { return Ok(true) };
        let mut images = 0;
        source.count(&mut |count| {
            images += count;
            if images > 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        return Ok(images == 0);
    }
    Ok(false)
}

/// Adds at most one shard of what is new.
fn grow(args: &Args, job: &Job, out: &Path, (tally, stop): (&Tally, &AtomicBool)) -> Result<Round> {
    let (shard_size, pixels) = (args.build.shard_size, args.build.pixels);
    tally.scans.fetch_add(1, Ordering::Relaxed);
    if !args.once && is_empty(args)? {
        tracing::info!("No images yet; waiting for the first.");
        return Ok(Round::default());
    }
    let source = Source::open(&args.build.sources)?;
    let (mut packer, manifest) = Packer::grow(out, job.spec().clone(), (shard_size, pixels))?;
    let old_classes = manifest.as_ref().map_or(&[][..], |manifest| &manifest.classes);
    let classes = grown_classes(old_classes, source.classes());
    let labels = labels(&classes, source.classes())?;
    let catalog = manifest.as_ref().map(|_| Catalog::open(out)).transpose()?;
    let (bytes, unsettled, more) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    let filter = |path: &str, place: &Place| -> Result<bool> {
        if let Some(catalog) = &catalog
            && (catalog.find(SampleId::of_path(path))?.is_some()
                || catalog.quarantine_reason(path)?.is_some())
        {
            return Ok(false);
        }
        if more.load(Ordering::Relaxed) {
            tally.found(false);
            return Ok(false);
        }
        let Some((len, modified)) = place.facts() else {
            tally.found(true);
            return Ok(true);
        };
        if is_young(modified, args.settle) {
            unsettled.fetch_add(1, Ordering::Relaxed);
            tally.found(false);
            return Ok(false);
        }
        let sum = bytes.fetch_add(len, Ordering::Relaxed) + len;
        more.store(sum >= shard_size, Ordering::Relaxed);
        tally.found(true);
        Ok(true)
    };
    let start = packer.next_entry();
    let listing = source.growing(&filter, start, labels);
    packer.set_classes(classes);
    let mut progress = Progress::new(args.build.views, start, tally);
    let ended = job.line(listing, tally, stop).run(&mut packer, &mut progress);
    progress.finish();
    ended?;
    let round = Round { unsettled: unsettled.load(Ordering::Relaxed), more: more.load(Ordering::Relaxed) };
    if stop.load(Ordering::SeqCst) || packer.entries_done() == 0 {
        packer.abandon();
        return Ok(round);
    }
    let all = start + packer.entries_done();
    let all_bad = manifest.map_or(0, |manifest| manifest.quarantined) + packer.quarantined();
    let summary = packer.finish(1.0, &progress)?;
    if args.build.json {
        println!("{}", serde_json::to_string(&summary)?);
    } else {
        summary.print();
    }
    if all_bad as f64 > args.build.max_bad * all as f64 {
        tracing::warn!(
            quarantined = all_bad,
            of = all,
            "More images are unusable than --max-bad allows; `beit-shard ls --quarantined` names them."
        );
    }
    Ok(round)
}

/// The old classes as they were, and behind them the new ones.
fn grown_classes(old: &[String], now: &[String]) -> Vec<String> {
    let mut classes = old.to_vec();
    classes.extend(now.iter().filter(|class| !old.contains(class)).cloned());
    classes
}

/// For each class of the source its label in the set.
fn labels(classes: &[String], source: &[String]) -> Result<Vec<u32>> {
    let by_name: HashMap<&str, usize> = classes.iter().map(String::as_str).zip(0..).collect();
    source.iter().map(|class| Ok(u32::try_from(by_name[class.as_str()])?)).collect()
}

fn is_young(modified: SystemTime, settle: f64) -> bool {
    // A time in the future is a clock that differs, not a file that is being written.
    SystemTime::now().duration_since(modified).is_ok_and(|age| age.as_secs_f64() < settle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_classes_come_behind_the_old_ones() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let classes = grown_classes(&names(&["b", "d"]), &names(&["a", "b", "c", "d"]));
        assert_eq!(classes, names(&["b", "d", "a", "c"]));
        assert_eq!(labels(&classes, &names(&["a", "b", "c", "d"])).unwrap(), [2, 0, 3, 1]);
        // A class whose folder is gone keeps its label.
        assert_eq!(grown_classes(&names(&["b", "d"]), &names(&["d"])), names(&["b", "d"]));
    }

    #[test]
    fn files_that_were_written_just_now_are_left_alone() {
        let now = SystemTime::now();
        assert!(is_young(now, 3.0));
        assert!(!is_young(now - Duration::from_secs(4), 3.0));
        assert!(
            !is_young(now + Duration::from_secs(60), 3.0),
            "a clock that is ahead must not starve a file"
        );
        assert!(!is_young(now, 0.0));
    }
}
