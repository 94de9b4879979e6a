//! Finding a set and a sample in it, for the commands that read shards.

use anyhow::{Context, Result, anyhow, bail, ensure};
use beit_shards::{Catalog, Digest, Io, SampleId, SampleRef, SetSpec, ShardSet};
use beit_tokenizer::Tokenizer;
use beit_views::{Payload, PayloadKind};
use std::path::{Path, PathBuf};

/// The directory that was named, or the only `*.shards` directory here.
pub fn directory(named: Option<&Path>) -> Result<PathBuf> {
    if let Some(dir) = named {
        return Ok(dir.to_owned());
    }
    let mut found = Vec::new();
    for item in Path::new(".").read_dir().context("looking for *.shards directories here")? {
        let path = item.context("looking for *.shards directories here")?.path();
        if path.is_dir() && path.extension().is_some_and(|ending| ending == "shards") {
            found.push(path);
        }
    }
    found.sort();
    match found.as_slice() {
        [only] => Ok(only.clone()),
        [] => bail!("no *.shards directory here; name one"),
        several => {
            let names: Vec<_> = several.iter().map(|path| path.display().to_string()).collect();
            bail!("several *.shards directories here ({}); name one", names.join(", "))
        }
    }
}

/// Opens the set for reading.
pub fn open(dir: &Path) -> Result<ShardSet> {
    Ok(ShardSet::open(dir, Io::Auto)?)
}

/// The tokenizer that made a set's tokens: the one that was named, the embedded one if it is that, or as build finds it.
pub fn tokenizer_of(spec: &SetSpec, named: Option<&str>) -> Result<Tokenizer> {
    let wanted = &spec.tokenizer;
    let embedded = Tokenizer::embedded()?;
    let tokenizer = if named.is_none() && embedded.digest() == wanted.digest {
        embedded
    } else {
        Tokenizer::find(named)?
    };
    ensure!(
        tokenizer.digest() == wanted.digest,
        "the tokens were made by {} (digest {}), not by {} (digest {}); name the right one with --tokenizer",
        wanted.name,
        Digest(wanted.digest),
        tokenizer.name(),
        Digest(tokenizer.digest())
    );
    Ok(tokenizer.as_in_set(&wanted.name))
}

/// The position of a sample that is named by id, by path or by position.
pub fn find(dir: &Path, set: &ShardSet, name: &str) -> Result<u64> {
    let catalog = Catalog::open(dir)?;
    let by_id = match name.parse::<SampleId>() {
        Ok(id) => catalog.find(id)?,
        Err(_) => None,
    };
    let entry = match by_id {
        Some(entry) => Some(entry),
        None => catalog.find_path(name)?,
    };
    if let Some(entry) = entry {
        return set
            .index_of(entry.shard, entry.index)
            .context("the catalog names a record that is not there");
    }
    if let Some(reason) = catalog.quarantine_reason(name)? {
        bail!("{name} was quarantined: {reason}");
    }
    let position = name.parse::<u64>().ok().filter(|&position| position < set.len());
    position.ok_or_else(|| {
        anyhow!(
            "{} has no sample {name:?}: give an id or a path that `beit-shard ls` prints, or a position below {}",
            dir.display(),
            set.len()
        )
    })
}

/// A sample's payload as the renderer takes it.
pub fn payload<'a>(sample: &SampleRef<'a>) -> Result<Payload<'a>> {
    let kind = match sample.payload_kind {
        beit_shards::PAYLOAD_JPEG => PayloadKind::Jpeg,
        beit_shards::PAYLOAD_RGB => PayloadKind::Rgb,
        other => {
            bail!("{} has a payload of unknown kind {other}; it was packed by a newer version", sample.path)
        }
    };
    Ok(Payload { kind, width: sample.width, height: sample.height, bytes: sample.payload })
}
