//! The line: the stages of one build, wired.

use crate::pack::{Packer, Resume};
use crate::prepare::{Batching, Group, Making, Outcome, PreparedGroup, Preparer};
use crate::progress::Progress;
use crate::room::Room;
use crate::source::{Entry, Listing};
use crate::stages::{Stages, thread_ns};
use crate::tally::Tally;
use anyhow::{Context, Result, anyhow, bail};
use beit_tokenizer::Tokenizer;
use crossbeam::channel::{Receiver, Sender, bounded};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Everything the stages of one build share.
pub struct Line<'a> {
    pub source: Listing<'a>,
    pub making: Making<'a>,
    pub batching: Batching,
    /// One per device; each has a thread of its own.
    pub tokenizers: &'a [Tokenizer],
    /// Threads that decode and render.
    pub jobs: usize,
    pub tally: &'a Tally,
    pub stop: &'a AtomicBool,
}

/// A group with the tokens of all its views, `images × K × grid`.
struct TokenizedGroup {
    group: PreparedGroup,
    tokens: Vec<u16>,
}

impl Line<'_> {
    fn stages(&self) -> &Stages {
        &self.tally.stages
    }

    pub fn run(&self, packer: &mut Packer, progress: &mut Progress) -> Result<()> {
        let in_flight = 2 * (self.jobs + self.tokenizers.len());
        let (permit, permits) = bounded::<()>(in_flight);
        let (to_prepare, groups) = bounded(in_flight);
        let (to_tokenize, prepared) = bounded(in_flight);
        let (to_pack, tokenized) = bounded(in_flight);
        // The count found a source that cannot be read; the scan need not come to it first.
        let damaged = AtomicBool::new(false);
        let room = Room::before(self.group_of(packer.next_entry()));
        std::thread::scope(|scope| {
            let (damaged, room) = (&damaged, &room);
            let resume = packer.resume_point();
            let count = scope.spawn({
                let resume = packer.resume_point();
                move || self.count(&resume, damaged)
            });
            let scan = scope.spawn(move || self.scan(&resume, &permit, &to_prepare, damaged));
            for _ in 0..self.jobs {
                let (groups, to_tokenize) = (groups.clone(), to_tokenize.clone());
                scope.spawn(move || self.prepare(&groups, &to_tokenize, Arc::clone(room)));
            }
            drop((groups, to_tokenize));
            let tokenize: Vec<_> = self
                .tokenizers
                .iter()
                .map(|tokenizer| {
                    let (prepared, to_pack) = (prepared.clone(), to_pack.clone());
                    scope.spawn(move || self.tokenize(tokenizer, &prepared, &to_pack))
                })
                .collect();
            drop((prepared, to_pack));
            let packed = self.pack(&tokenized, (&permits, room), packer, progress, damaged);
            // Hanging up both ends lets every stage above run out, whatever went wrong here.
            drop((tokenized, permits));
            room.packed(u64::MAX);
            let scanned = scan.join().map_err(|_| anyhow!("the scan panicked; this is a bug"))?;
            let counted = count.join().map_err(|_| anyhow!("the count panicked; this is a bug"))?;
            let mut tokens = Ok(());
            for thread in tokenize {
                tokens =
                    tokens.and(thread.join().map_err(|_| anyhow!("the tokenizer panicked; this is a bug"))?);
            }
            packed.and(counted).and(scanned).and(tokens)
        })
    }

    /// The group that an entry of the listing belongs to.
    fn group_of(&self, entry: u64) -> u64 {
        entry / self.batching.images as u64
    }

    /// Counts the listing for the progress bar's end, beside the build; finds damaged sources early.
    fn count(&self, resume: &Resume, damaged: &AtomicBool) -> Result<()> {
        let mut seen = 0;
        let counted = self.source.count(&mut |entries| {
            seen += entries;
            self.tally.listed(seen.min(resume.end()).saturating_sub(resume.start()));
            match self.stop.load(Ordering::Relaxed) || seen >= resume.end() {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        });
        // What a growing set lacks is not counted beforehand.
        if counted.is_ok() && seen > 0 && !self.stop.load(Ordering::Relaxed) {
            self.tally.listed_all();
        }
        damaged.store(counted.is_err(), Ordering::Relaxed);
        counted
    }

    /// Lists the source, checks what earlier runs have packed against it, and sends the rest on in groups.
    fn scan(
        &self,
        resume: &Resume,
        permit: &Sender<()>,
        out: &Sender<Group>,
        damaged: &AtomicBool,
    ) -> Result<()> {
        let size = self.batching.images as u64;
        // A group that a finished shard cut in two is prepared whole once more, for the same batches.
        let wanted = resume.first_entry() / size * size..resume.end();
        let scan = &self.stages().scan;
        let mut check = resume.check();
        let mut entries: Vec<Entry> = Vec::new();
        let mut ended = true;
        let mut before = thread_ns();
        self.source.walk(&wanted, &mut |entry| {
            let index = entry.index;
            if index >= wanted.end {
                return Ok(ControlFlow::Break(()));
            }
            check.entry(&entry)?;
            if index < wanted.start {
                if self.stop.load(Ordering::Relaxed) {
                    ended = false;
                    return Ok(ControlFlow::Break(()));
                }
                return Ok(ControlFlow::Continue(()));
            }
            scan.enter(1);
            entries.push(entry);
            if (index + 1).is_multiple_of(size) {
                let now = thread_ns();
                scan.spent(now - before);
                before = now;
                if !self.send(&mut entries, index / size, permit, out, damaged) {
                    ended = false;
                    return Ok(ControlFlow::Break(()));
                }
            }
            Ok(ControlFlow::Continue(()))
        })?;
        scan.spent(thread_ns() - before);
        if !ended {
            return Ok(());
        }
        check.end()?;
        self.tally.listed_all();
        if let Some(last) = entries.last() {
            let group = last.index / size;
            self.send(&mut entries, group, permit, out, damaged);
        }
        Ok(())
    }

    /// Hands a group on; `false` when nobody listens any more, the user wants to stop, or the source is damaged.
    fn send(
        &self,
        entries: &mut Vec<Entry>,
        index: u64,
        permit: &Sender<()>,
        out: &Sender<Group>,
        damaged: &AtomicBool,
    ) -> bool {
        let images = entries.len() as u64;
        let sent = !self.stop.load(Ordering::SeqCst)
            && !damaged.load(Ordering::Relaxed)
            && permit.send(()).is_ok()
            && out.send(Group { index, entries: std::mem::take(entries) }).is_ok();
        self.stages().scan.leave(images);
        sent
    }

    fn prepare(&self, groups: &Receiver<Group>, out: &Sender<PreparedGroup>, room: Arc<Room>) {
        let mut preparer = Preparer::new(self.making, self.stages(), room);
        for group in groups {
            if out.send(preparer.prepare(group)).is_err() {
                return;
            }
        }
    }

    fn tokenize(
        &self,
        tokenizer: &Tokenizer,
        groups: &Receiver<PreparedGroup>,
        out: &Sender<TokenizedGroup>,
    ) -> Result<()> {
        let px = self.making.spec.token_px;
        let view_bytes = (px * px * 3) as usize;
        for group in groups {
            if self.stop.load(Ordering::SeqCst) {
                break; // the full-size dVAE takes seconds per group: don't let a Ctrl-C wait for them
            }
            let (mut tokens, images) = (Vec::new(), group.items.len() as u64);
            self.stages().tokenize.enter(images);
            for views in group.views.chunks(self.batching.views * view_bytes) {
                tokenizer.encode(views, views.len() / view_bytes, px, &mut tokens).context("tokenizing")?;
            }
            self.stages().tokenize.leave(images);
            if out.send(TokenizedGroup { group, tokens }).is_err() {
                break;
            }
        }
        Ok(())
    }

    /// Restores the listing's order and packs.
    fn pack(
        &self,
        groups: &Receiver<TokenizedGroup>,
        (permits, room): (&Receiver<()>, &Room),
        packer: &mut Packer,
        progress: &mut Progress,
        damaged: &AtomicBool,
    ) -> Result<()> {
        let mut early = BTreeMap::new();
        let mut next = self.group_of(packer.next_entry());
        for group in groups {
            early.insert(group.group.index, group);
            while let Some(TokenizedGroup { group, tokens }) = early.remove(&next) {
                self.stages().write.timed(|| self.pack_group(group, &tokens, packer, progress))?;
                next += 1;
                room.packed(next);
                permits.recv().context("a permit was lost; this is a bug")?;
            }
            let (images, all) = self.tally.listing();
            progress.listed(images, all);
        }
        if !early.is_empty() && !self.stop.load(Ordering::SeqCst) && !damaged.load(Ordering::Relaxed) {
            bail!("a group of images was lost on the way; this is a bug");
        }
        Ok(())
    }

    fn pack_group(
        &self,
        group: PreparedGroup,
        tokens: &[u16],
        packer: &mut Packer,
        progress: &mut Progress,
    ) -> Result<()> {
        let per_image = tokens.len() / self.batching.images;
        for ((entry, outcome), tokens) in group.items.into_iter().zip(tokens.chunks_exact(per_image)) {
            if entry.index < packer.next_entry() {
                continue;
            }
            progress.image(matches!(outcome, Outcome::Bad { .. }));
            let (write, shards) = (&self.stages().write, packer.shards_done());
            write.enter(1);
            match outcome {
                Outcome::Sample(sample) => {
                    packer.sample(&entry, &sample, tokens)?;
                    self.tally.packed(self.making.views, sample.payload.len());
                }
                Outcome::Bad { reason, detail } => {
                    packer.quarantine(&entry, reason, &detail)?;
                    self.tally.rejected(reason);
                }
            }
            write.leave(1);
            self.tally.published(packer.shards_done() - shards);
        }
        progress.tokens_per_view(per_image as u64 / u64::from(self.making.views));
        Ok(())
    }
}
