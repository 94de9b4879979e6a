//! Pack: samples in listing order become shards; finished shards are the journal of the build.
//!
//! A shard remembers which stretch of the listing it was made from and a digest of that stretch. A later run opens the
//! shards that are there, checks that they are of the same data set and listing, and goes on behind them.

mod grow;
mod lock;
mod resume;
mod summary;

use crate::part::{PART_FILE, Stretch};
use crate::pixels::Pixels;
use crate::prepare::Prepared;
use crate::progress::Progress;
use crate::source::Entry;
use anyhow::{Context, Result, bail, ensure};
use beit_shards::{
    Covered, Io, MANIFEST_FILE, Manifest, Record, SampleId, SetSpec, Shard, ShardInfo, ShardWriter,
    ViewTokens,
};
pub use lock::lock;
pub use resume::{Resume, list};
use std::path::{Path, PathBuf};
use summary::Summary;

/// How many bad files a message names.
const NAMED: usize = 10;

/// Writes the shards of one set.
pub struct Packer {
    out: PathBuf,
    spec: SetSpec,
    classes: Vec<String>,
    shard_size: u64,
    pixels: Pixels,
    /// What of the listing is packed here, and as which shards.
    stretch: Stretch,
    /// Published shards, in order.
    done: Vec<ShardInfo>,
    covered: Vec<Covered>,
    /// `path (reason)` of the first few quarantined entries.
    named: Vec<String>,
    samples: u64,
    quarantined: u64,
    /// Whether an earlier run has published the manifest.
    complete: bool,
    current: Option<Current>,
    /// Keeps other builds out of `out`; the kernel lets go of it however this process ends.
    _lock: std::fs::File,
}

/// The shard being written.
struct Current {
    writer: ShardWriter,
    first_entry: u64,
    stretch: blake3::Hasher,
}

impl Packer {
    /// Makes `out` if it is not there, locks it, and looks at what earlier runs have left in it.
    ///
    /// # Errors
    /// another build at work there; shards of another tokenizer, seed or view specification, or damaged ones
    pub fn open(
        out: &Path,
        spec: SetSpec,
        classes: Vec<String>,
        (shard_size, pixels): (u64, Pixels),
        stretch: Stretch,
    ) -> Result<Self> {
        std::fs::create_dir_all(out).with_context(|| format!("making {}", out.display()))?;
        let mut packer = Self {
            _lock: lock(out)?,
            out: out.to_owned(),
            spec,
            classes,
            shard_size,
            pixels,
            stretch,
            done: Vec::new(),
            covered: Vec::new(),
            named: Vec::new(),
            samples: 0,
            quarantined: 0,
            complete: out.join(MANIFEST_FILE).exists(),
            current: None,
        };
        packer.check_is_no_merged_set()?;
        loop {
            let path = out.join(beit_shards::shard_file_name(packer.next_shard()));
            if !path.exists() {
                return Ok(packer);
            }
            let shard = Shard::open(&path, Io::Pread)
                .with_context(|| format!("going on behind {}; delete it to pack it again", path.display()))?;
            packer.take_over(&shard)?;
        }
    }

    /// The set's classes: new ones come behind the old.
    pub fn set_classes(&mut self, classes: Vec<String>) {
        self.classes = classes;
    }

    /// Entries that were kept out.
    pub fn quarantined(&self) -> u64 {
        self.quarantined
    }

    /// A build cannot go on behind shards of several parts: their numbers have gaps.
    fn check_is_no_merged_set(&self) -> Result<()> {
        ensure!(
            !self.stretch.is_whole() || !self.out.join(PART_FILE).exists(),
            "{} holds one part of a set; give the same --part, or another --out",
            self.out.display()
        );
        let Ok(manifest) = Manifest::read(&self.out) else { return Ok(()) };
        let numbers = self.stretch.listed_from().0..;
        let ours = manifest
            .shards
            .iter()
            .zip(numbers)
            .all(|(s, number)| s.file == beit_shards::shard_file_name(number));
        ensure!(
            ours,
            "{} was merged from parts, or is another part; build into a fresh --out, and merge anew for changed parts",
            self.out.display()
        );
        Ok(())
    }

    fn take_over(&mut self, shard: &Shard) -> Result<()> {
        if let Some(difference) = shard.spec().difference(&self.spec) {
            bail!(
                "{} holds another set ({difference}); build into a fresh --out, or give the same options",
                self.out.display()
            );
        }
        let footer = shard.footer();
        let expected = self.next_entry();
        ensure!(
            footer.covered.first_entry == expected && footer.classes as usize == self.classes.len(),
            "{} was made from another listing of the source (it starts at entry {} with {} classes; expected entry \
             {expected} and {}); build into a fresh --out",
            shard.path().display(),
            footer.covered.first_entry,
            footer.classes,
            self.classes.len()
        );
        for (path, reason) in &footer.quarantine {
            self.name(path, reason);
        }
        self.samples += footer.samples;
        self.quarantined += footer.quarantine.len() as u64;
        self.covered.push(footer.covered);
        self.done.push(shard.info());
        Ok(())
    }

    /// Entries of the listing that are packed or quarantined, from the first one on.
    pub fn entries_done(&self) -> u64 {
        self.samples + self.quarantined
    }

    /// Position in the whole listing of the first entry that is neither packed nor quarantined.
    pub fn next_entry(&self) -> u64 {
        self.stretch.entries.start + self.entries_done()
    }

    fn next_shard(&self) -> u64 {
        self.stretch.first_shard + self.done.len() as u64
    }

    /// Published shards.
    pub fn shards_done(&self) -> usize {
        self.done.len()
    }

    /// What the scan needs to check the listing against finished shards.
    pub fn resume_point(&self) -> Resume {
        Resume {
            covered: self.covered.clone(),
            complete: self.complete,
            entries: self.stretch.entries.clone(),
        }
    }

    /// Packs the next entry of the listing; `tokens` is `[K, grid]`.
    pub fn sample(&mut self, entry: &Entry, sample: &Prepared, tokens: &[u16]) -> Result<()> {
        let grid = self.spec.tokens();
        let views: Vec<ViewTokens<'_>> = sample
            .greys
            .iter()
            .zip(tokens.chunks_exact(grid))
            .map(|(&grey, tokens)| ViewTokens { grey, tokens })
            .collect();
        let record = Record {
            id: SampleId::of_path(&entry.path),
            label: entry.label,
            path: &entry.path,
            width: sample.width,
            height: sample.height,
            payload_kind: sample.payload_kind(),
            payload: &sample.payload,
            views: &views,
        };
        self.current(entry)?.writer.push(&record)?;
        self.samples += 1;
        self.cut_if_full()
    }

    /// Keeps the next entry of the listing out, with a reason.
    pub fn quarantine(&mut self, entry: &Entry, reason: &str, detail: &str) -> Result<()> {
        let reason = format!("{reason}: {detail}");
        self.current(entry)?.writer.quarantine(&entry.path, &reason);
        self.name(&entry.path, &reason);
        self.quarantined += 1;
        self.cut_if_full()
    }

    fn name(&mut self, path: &str, reason: &str) {
        if self.named.len() < NAMED {
            self.named.push(format!("{path} ({reason})"));
        }
    }

    fn current(&mut self, entry: &Entry) -> Result<&mut Current> {
        if self.current.is_none() {
            ensure!(
                (self.done.len() as u64) < self.stretch.most_shards,
                "a part has at most {} shards; choose a larger --shard-size",
                self.stretch.most_shards
            );
            let mut writer = ShardWriter::create(&self.out, self.next_shard(), &self.spec, &self.classes)?;
            writer.keep_rgb_plain(self.pixels.plain());
            self.current = Some(Current { writer, first_entry: entry.index, stretch: blake3::Hasher::new() });
        }
        let current = self.current.as_mut().context("a shard was just started")?;
        list(&mut current.stretch, entry);
        Ok(current)
    }

    fn cut_if_full(&mut self) -> Result<()> {
        match &self.current {
            Some(current) if current.writer.bytes() >= self.shard_size => self.cut(),
            _ => Ok(()),
        }
    }

    /// Publishes the shard being written.
    fn cut(&mut self) -> Result<()> {
        if let Some(Current { mut writer, first_entry, stretch }) = self.current.take() {
            writer.cover(first_entry, *stretch.finalize().as_bytes());
            self.done.push(writer.finish()?);
        }
        Ok(())
    }

    /// Drops the shard being written; its temporary file goes with it.
    pub fn abandon(&mut self) {
        self.current = None;
    }

    /// Publishes the last shard, then the manifest and the catalog, unless too many images are bad.
    pub fn finish(mut self, max_bad: f64, progress: &Progress<'_>) -> Result<Summary> {
        let write = &progress.tally().stages.write;
        let shards = self.done.len();
        write.timed(|| self.cut())?;
        progress.tally().published(self.done.len() - shards);
        let entries = self.entries_done();
        let whole = self.stretch.is_whole();
        if entries == 0 && whole {
            std::fs::remove_dir(&self.out).ok(); // made for nothing, unless something else is in it
            bail!("no images in the source: its class folders are empty, nothing was packed");
        }
        let allowed = (max_bad * entries as f64 + 1e-9).floor() as u64;
        ensure!(
            self.quarantined <= allowed,
            "{} of {entries} images cannot be used and --max-bad {}% allows {allowed}: {}{}. All that is packed is kept: the \
             same command with --max-bad {}% accepts the set; or mend the files and build into a fresh --out",
            self.quarantined,
            max_bad * 100.0,
            self.named.join(", "),
            if self.quarantined > self.named.len() as u64 { ", …" } else { "" },
            (self.quarantined as f64 * 100.0 / entries as f64).ceil()
        );
        ensure!(
            self.samples > 0 || !whole,
            "not one of {entries} images could be used: {}",
            self.named.join(", ")
        );
        let (first_shard, first) = self.stretch.listed_from();
        let numbers: Vec<u64> = (first_shard..self.next_shard()).collect();
        let manifest = write
            .timed(|| beit_shards::publish_shards(&self.out, &self.spec, &self.classes, &numbers, first))?;
        let tokens = progress.done() * u64::from(self.spec.views) * self.spec.tokens() as u64;
        Ok(Summary {
            samples: self.samples,
            quarantined: self.quarantined,
            shards: self.done.len(),
            views: self.spec.views,
            tokens: self.samples * u64::from(self.spec.views) * self.spec.tokens() as u64,
            bytes: self.done.iter().map(|shard| shard.bytes).sum(),
            seconds: progress.seconds(),
            images_per_s: progress.images_per_s(),
            tokens_per_s: tokens as f64 / progress.seconds().max(1e-9),
            cpu_seconds: progress.cpu_seconds(),
            digest: manifest.digest().to_string(),
            next: self.stretch.next(&self.out),
            out: self.out.display().to_string(),
        })
    }
}
