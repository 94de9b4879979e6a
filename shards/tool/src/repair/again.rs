//! One damaged shard, written again: sound records are copied, lost pieces made again, and the result compared.

use super::{Mended, Run, Truth};
use crate::pack;
use crate::pixels::Pixels;
use crate::prepare::{Group, Outcome, Prepared, Preparer};
use crate::shards;
use crate::source::Entry;
use anyhow::{Context, Result, anyhow, ensure};
use beit_shards::{
    Record, Salvage, Salvaged, SampleId, SetSpec, ShardInfo, ShardWriter, ViewTokens, shard_file_name,
};
use beit_tokenizer::Tokenizer;
use std::collections::{BTreeSet, HashMap};
use std::path::Path;

/// How many files a message names.
const NAMED: usize = 10;

/// Makes samples again.
pub struct Maker<'a> {
    /// The tokenizer that was named.
    pub named: Option<&'a str>,
    pub spec: &'a SetSpec,
    pub view_px: u32,
    pub pixels: Pixels,
    pub preparer: Preparer<'a>,
    /// Loaded when the first token is lost.
    pub tokenizer: Option<Tokenizer>,
}

impl Maker<'_> {
    /// Decodes and renders one image, as a build does.
    fn prepare(&mut self, entry: &Entry) -> Result<(Outcome, Vec<u8>)> {
        let prepared = self.preparer.prepare(Group { index: 0, entries: vec![entry.clone()] });
        let (_, outcome) = prepared.items.into_iter().next().context("an image went in and none came out")?;
        Ok((outcome, prepared.views))
    }

    /// Tokens of some views of an image that was prepared alone, one view after the other.
    fn tokens(&mut self, views: &[u8], which: &[u32]) -> Result<Vec<u16>> {
        let mut tokens = Vec::new();
        if which.is_empty() {
            return Ok(tokens);
        }
        let tokenizer = match &self.tokenizer {
            Some(tokenizer) => tokenizer,
            None => {
                let found = shards::tokenizer_of(self.spec, self.named)?;
                self.tokenizer.insert(found)
            }
        };
        let len = (self.view_px * self.view_px * 3) as usize;
        let pixels: Vec<u8> =
            which.iter().flat_map(|&k| &views[k as usize * len..][..len]).copied().collect();
        tokenizer.encode(&pixels, which.len(), self.view_px, &mut tokens).context("tokenizing")?;
        Ok(tokens)
    }
}

impl Mended {
    pub fn of(info: &ShardInfo) -> Self {
        Self { shard: info.file.clone(), copied: 0, remade: 0 }
    }
}

/// The number that a shard's file name tells; in a set merged from parts it is not the shard's place in the manifest.
pub fn number_of(info: &ShardInfo) -> Result<u64> {
    let digits = info.file.strip_prefix("shard-").and_then(|name| name.strip_suffix(".shard"));
    let number =
        digits.and_then(|digits| digits.parse().ok()).filter(|&number| shard_file_name(number) == info.file);
    number.with_context(|| format!("{} is no shard's name", info.file))
}

/// One damaged shard, written again.
pub struct Again<'a> {
    pub info: &'a ShardInfo,
    pub run: &'a Run,
    /// From this shard's first entry to the end of the run.
    pub entries: &'a [Entry],
    /// Whether it is the last of its run, to which all entries that are left belong.
    pub last: bool,
    /// Entries it took.
    pub taken: u64,
    /// What had to be made again, or could not be.
    pub suspects: Vec<String>,
    pub mended: Mended,
}

impl Again<'_> {
    /// Writes the shard with each number of classes that it may have been written with, until it comes out as it was.
    pub fn write(
        &mut self,
        dir: &Path,
        set: &Truth,
        classes: &BTreeSet<usize>,
        maker: &mut Maker<'_>,
    ) -> Result<()> {
        let mut tried = Err(anyhow!("no footer tells how many classes the set had; this is a bug"));
        for &count in classes.iter().rev() {
            (self.taken, self.mended) = (0, Mended::of(self.info));
            self.suspects.clear();
            tried = self.write_with(dir, set, &set.classes[..count.min(set.classes.len())], maker);
            if tried.is_ok() {
                break;
            }
        }
        tried
    }

    fn write_with(
        &mut self,
        dir: &Path,
        set: &Truth,
        classes: &[String],
        maker: &mut Maker<'_>,
    ) -> Result<()> {
        let path = dir.join(&self.info.file);
        let salvage = match path.exists() {
            true => Some(Salvage::open(&path, &set.spec)?),
            false => None,
        };
        let sound: HashMap<&str, &Salvaged> = salvage
            .iter()
            .flat_map(|salvage| salvage.records().values())
            .map(|record| (record.path.as_str(), record))
            .collect();
        let mut writer = ShardWriter::create(dir, number_of(self.info)?, &set.spec, classes)?;
        writer.keep_rgb_plain(maker.pixels.plain());
        let mut stretch = blake3::Hasher::new();
        let first = self.entries.first().map_or(self.run.end, |entry| entry.index);
        for entry in self.entries {
            // A shard ends with its last sample; what was kept out behind that went to the next one, if there is one.
            if writer.len() == self.info.samples && !self.last {
                break;
            }
            self.taken += 1;
            pack::list(&mut stretch, entry);
            let record = sound.get(entry.path.as_str()).copied();
            match (&salvage, record) {
                (Some(salvage), Some(record)) if record.is_whole() && record.number == writer.len() => {
                    writer.copy(salvage, record)?;
                    self.mended.copied += 1;
                }
                _ => self.remake(entry, salvage.as_ref().zip(record), &mut writer, maker)?,
            }
        }
        writer.cover(first, *stretch.finalize().as_bytes());
        writer.finish_as(self.info)?;
        Ok(())
    }

    /// Packs one entry of which something or everything is lost, or keeps it out again.
    fn remake(
        &mut self,
        entry: &Entry,
        found: Option<(&Salvage, &Salvaged)>,
        writer: &mut ShardWriter,
        maker: &mut Maker<'_>,
    ) -> Result<()> {
        if let Some(reason) = self.run.quarantined.get(&entry.path) {
            writer.quarantine(&entry.path, reason);
            return Ok(());
        }
        let (outcome, pixels) = maker.prepare(entry)?;
        let prepared = match outcome {
            Outcome::Sample(prepared) => prepared,
            Outcome::Bad { reason, detail } => {
                let reason = format!("{reason}: {detail}");
                self.suspects.push(format!("{} ({reason})", entry.path));
                ensure!(
                    !self.run.quarantine_known && found.is_none(),
                    "{} cannot be used: {reason}",
                    entry.path
                );
                writer.quarantine(&entry.path, &reason);
                return Ok(());
            }
        };
        self.suspects.push(entry.path.clone());
        let payload_kind = prepared.payload_kind();
        let Prepared { width, height, payload, greys, .. } = prepared;
        let mut views = Vec::with_capacity(greys.len());
        for (k, grey) in (0..).zip(greys) {
            let kept = match found {
                Some((salvage, record)) => salvage.view(record, k)?,
                None => None,
            };
            views.push(kept.unwrap_or((grey, Vec::new())));
        }
        let lost: Vec<u32> =
            (0..).zip(&views).filter(|(_, view)| view.1.is_empty()).map(|(k, _)| k).collect();
        let tokens = maker.tokens(&pixels, &lost)?;
        for (&k, tokens) in lost.iter().zip(tokens.chunks_exact(maker.spec.tokens())) {
            views[k as usize].1 = tokens.to_vec();
        }
        let kept = match found {
            Some((salvage, record)) => salvage.payload(record)?,
            None => None,
        };
        let views: Vec<ViewTokens<'_>> =
            views.iter().map(|(grey, tokens)| ViewTokens { grey: *grey, tokens }).collect();
        writer.push(&Record {
            id: SampleId::of_path(&entry.path),
            label: entry.label,
            path: &entry.path,
            width,
            height,
            payload_kind,
            payload: kept.as_deref().unwrap_or(&payload),
            views: &views,
        })?;
        self.mended.remade += 1;
        Ok(())
    }

    /// Why it could not be repaired, with the images that may be at fault.
    pub fn explain(&self, error: &anyhow::Error) -> String {
        let differs = matches!(
            error.downcast_ref::<beit_shards::ShardError>(),
            Some(beit_shards::ShardError::Digest { .. })
        );
        if !differs {
            return format!("{error:#}");
        }
        let named = self.suspects.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
        let more = if self.suspects.len() > NAMED { ", …" } else { "" };
        match self.suspects.as_slice() {
            [] => "its records are sound but the source's listing is another one: files were added, removed or renamed".into(),
            _ => format!(
                "it does not come out as it was published; what was made again from the source is {named}{more}: an image \
                 changed or is gone since the build, or this machine's tokenizer rounds differently from that of the build"
            ),
        }
    }
}
