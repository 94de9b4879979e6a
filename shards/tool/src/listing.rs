//! `beit-shard ls`: what a set holds.

use crate::shards;
use anyhow::Result;
use beit_shards::{Digest, ShardSet};
use serde_json::{Value, json};
use std::io::{BufWriter, Write};
use std::path::PathBuf;

/// List the samples of a set, its shards and what was kept out
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    beit-shard ls photos.shards                     one line a sample: id, class, path\n  \
    beit-shard ls photos.shards --quarantined       what was kept out, and why\n  \
    beit-shard ls photos.shards --json | jq .tokenizer")]
pub struct Args {
    /// The shards [default: the only *.shards directory here]
    #[arg(value_name = "DIR")]
    shards: Option<PathBuf>,
    /// Only what was kept out, with the reason
    #[arg(long, conflicts_with = "json")]
    quarantined: bool,
    /// One object with everything
    #[arg(long)]
    json: bool,
}

/// Lists to standard output.
pub fn run(args: &Args) -> Result<()> {
    let dir = shards::directory(args.shards.as_deref())?;
    let set = shards::open(&dir)?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    let listed = match (args.json, args.quarantined) {
        (true, _) => list_json(&set, &mut out),
        (_, true) => list_quarantined(&set, &mut out),
        _ => list_samples(&set, &mut out),
    };
    match listed.and_then(|()| Ok(out.flush()?)) {
        // `ls | head` is no failure.
        Err(error)
            if error
                .downcast_ref::<std::io::Error>()
                .is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe) =>
        {
            Ok(())
        }
        other => other,
    }
}

fn list_samples(set: &ShardSet, out: &mut impl Write) -> Result<()> {
    let spec = set.spec();
    writeln!(
        out,
        "# {} samples in {} shards, {} classes, {} views of {}x{} tokens by {}, set {}",
        set.len(),
        set.shards().len(),
        set.classes().len(),
        spec.views,
        spec.grid.0,
        spec.grid.1,
        spec.tokenizer.name,
        set.digest()
    )?;
    let mut written = Ok(());
    for shard in set.shards() {
        shard.for_each_name(|_, entry, label, path| {
            if written.is_ok() {
                let class = set.classes().get(label as usize).map_or("?", String::as_str);
                written = writeln!(out, "{}  {class}  {path}", entry.id);
            }
            Ok(())
        })?;
    }
    Ok(written?)
}

fn list_quarantined(set: &ShardSet, out: &mut impl Write) -> Result<()> {
    for shard in set.shards() {
        for (path, reason) in &shard.footer().quarantine {
            writeln!(out, "{path}  {reason}")?;
        }
    }
    Ok(())
}

fn list_json(set: &ShardSet, out: &mut impl Write) -> Result<()> {
    let (mut samples, mut quarantined, mut files) = (Vec::new(), Vec::new(), Vec::new());
    for (number, shard) in set.shards().iter().enumerate() {
        shard.for_each_name(|index, entry, label, path| {
            let class = set.classes().get(label as usize);
            samples.push(json!({
                "id": entry.id.to_string(), "path": path, "label": label, "class": class, "shard": number, "index": index,
            }));
            Ok(())
        })?;
        let kept_out = shard.footer().quarantine.iter();
        quarantined.extend(kept_out.map(|(path, reason)| json!({"path": path, "reason": reason})));
        let file = shard.path().file_name().map(|name| name.to_string_lossy().into_owned());
        files.push(json!({"file": file, "samples": shard.len(), "bytes": shard.bytes()}));
    }
    let spec = set.spec();
    let object: Value = json!({
        "digest": set.digest().to_string(),
        "seed": spec.seed,
        "views": spec.views,
        "view_spec": spec.view_spec,
        "grid": [spec.grid.0, spec.grid.1],
        "payload": spec.payload,
        "tokenizer": {
            "name": spec.tokenizer.name, "vocab": spec.tokenizer.vocab, "digest": Digest(spec.tokenizer.digest).to_string(),
        },
        "classes": set.classes(),
        "shards": files,
        "samples": samples,
        "quarantined": quarantined,
    });
    writeln!(out, "{object}")?;
    Ok(())
}
