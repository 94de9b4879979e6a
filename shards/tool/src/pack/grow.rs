//! Grow: a finished set is opened to take more shards.

use super::{Packer, lock};
use crate::part::Stretch;
use crate::pixels::Pixels;
use anyhow::{Context, Result, bail, ensure};
use beit_shards::{MANIFEST_FILE, Manifest, SetSpec};
use std::path::Path;

impl Packer {
    /// Opens a finished set, or begins one, to add shards behind those it has; removes a shard that a killed round has left
    /// unpublished. Also says what the set is so far.
    ///
    /// # Errors
    /// another build at work there; a set of another spec, merged from parts, or whose build has not finished
    pub fn grow(
        out: &Path,
        spec: SetSpec,
        (shard_size, pixels): (u64, Pixels),
    ) -> Result<(Self, Option<Manifest>)> {
        std::fs::create_dir_all(out).with_context(|| format!("making {}", out.display()))?;
        let lock = lock(out)?;
        let shard = |number| out.join(beit_shards::shard_file_name(number));
        let manifest = match out.join(MANIFEST_FILE).exists() {
            true => Some(Manifest::read(out)?),
            false => {
                ensure!(
                    !shard(1).exists(),
                    "a build in {} has not finished; run the same `beit-shard build` command again, then watch",
                    out.display()
                );
                None
            }
        };
        if let Some(difference) = manifest.as_ref().and_then(|manifest| spec.difference(&manifest.spec)) {
            bail!(
                "{} holds another set ({difference}); give the same options, or another --out",
                out.display()
            );
        }
        let (entries, shards) = manifest.as_ref().map_or((0, 0), |manifest| {
            (manifest.samples() + manifest.quarantined, manifest.shards.len() as u64)
        });
        let packer = Self {
            _lock: lock,
            out: out.to_owned(),
            spec,
            classes: Vec::new(),
            shard_size,
            pixels,
            stretch: Stretch::behind(entries, shards),
            done: Vec::new(),
            covered: Vec::new(),
            named: Vec::new(),
            samples: 0,
            quarantined: 0,
            complete: false,
            current: None,
        };
        packer.check_is_no_merged_set()?;
        for number in shards.. {
            let path = shard(number);
            if !path.exists() {
                break;
            }
            tracing::info!(shard = %path.display(), "Removing a shard that a killed round has not published; its images come again.");
            std::fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
        }
        Ok((packer, manifest))
    }
}
