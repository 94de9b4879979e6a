//! `beit-shard merge`: the parts that several machines built become one set, without rewriting a byte of them.

use crate::pack;
use crate::part::PartFile;
use anyhow::{Context, Result, bail, ensure};
use beit_shards::{Io, Shard, ShardSet};
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Make one set of the parts that `build --part i/n` made
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    beit-shard build imagenet22k/ --part 1/8                                on each of 8 machines, 1/8 to 8/8\n  \
    beit-shard merge imagenet22k.shards.part-* --out imagenet22k.shards     then, once\n\n\
    Shards are linked into the new directory (hard links), or copied where it is on another disk. The parts stay as they\n\
    are and may be deleted afterwards. The samples, ids, views and tokens are those of an unparted build.")]
pub struct Args {
    /// All parts of one set, in any order
    #[arg(required = true, value_name = "PART_DIR")]
    parts: Vec<PathBuf>,
    /// Where the set goes
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Checks that the parts belong together, links their shards and publishes the set.
pub fn run(args: &Args) -> Result<()> {
    let mut parts = Vec::new();
    for dir in &args.parts {
        let part = PartFile::read(dir)?;
        let set = ShardSet::open(dir, Io::Pread).with_context(|| format!("opening part {}", part.part))?;
        parts.push((part, set));
    }
    parts.sort_by_key(|(part, _)| part.part.number);
    check(&parts)?;

    fs::create_dir_all(&args.out).with_context(|| format!("making {}", args.out.display()))?;
    let _lock = pack::lock(&args.out)?;
    let mut numbers = Vec::new();
    for shard in parts.iter().flat_map(|(_, set)| set.shards()) {
        numbers.push(shard.footer().number);
        link(shard, &args.out)?;
    }
    fs::File::open(&args.out)
        .and_then(|dir| dir.sync_all())
        .with_context(|| format!("syncing {}", args.out.display()))?;
    let (_, first) = &parts[0];
    let manifest = beit_shards::publish_shards(&args.out, first.spec(), first.classes(), &numbers, 0)?;
    println!(
        "Merged {} parts: {} images ({} quarantined) in {} shards of {:.1} MB in all: {out}\nNext: beit-shard verify {out}",
        parts.len(),
        manifest.samples(),
        manifest.quarantined,
        manifest.shards.len(),
        manifest.bytes() as f64 / 1e6,
        out = args.out.display()
    );
    Ok(())
}

/// All parts of one listing, made with the same options, each once.
fn check(parts: &[(PartFile, ShardSet)]) -> Result<()> {
    let (first, set) = parts.first().context("at least one part is needed")?;
    for (part, other) in parts {
        ensure!(
            (part.part.of, part.total, &part.listing) == (first.part.of, first.total, &first.listing),
            "{} (part {} of {} entries) and {} (part {} of {}) were made from different listings; build them again from one source",
            set.dir().display(),
            first.part,
            first.total,
            other.dir().display(),
            part.part,
            part.total
        );
        let difference = set
            .spec()
            .difference(other.spec())
            .or_else(|| (set.classes() != other.classes()).then(|| "their classes differ".to_owned()));
        if let Some(difference) = difference {
            bail!(
                "{} and {} do not belong together: {difference}; build all parts with the same options",
                set.dir().display(),
                other.dir().display()
            );
        }
        let found = part.entries.end - part.entries.start;
        let held: u64 = other.shards().iter().map(|shard| shard.footer().covered.entries).sum();
        ensure!(
            held == found,
            "{} holds {held} of the {found} entries of part {}; run its build again",
            other.dir().display(),
            part.part
        );
    }
    let numbers: Vec<u64> = parts.iter().map(|(part, _)| part.part.number).collect();
    for wanted in 1..=first.part.of {
        match numbers.iter().filter(|&&number| number == wanted).count() {
            1 => {}
            0 => bail!("part {wanted}/{} is missing; name the directories of all parts", first.part.of),
            _ => bail!("part {wanted}/{} is named twice", first.part.of),
        }
    }
    Ok(())
}

/// The shard's file under the same name in `out`: a hard link, or a copy where the file system has none.
fn link(shard: &Shard, out: &Path) -> Result<()> {
    let name = shard.path().file_name().context("a shard has a file name")?;
    let target = out.join(name);
    match fs::hard_link(shard.path(), &target) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let (there, here) = (fs::metadata(&target)?, fs::metadata(shard.path())?);
            let same = (there.dev(), there.ino()) == (here.dev(), here.ino())
                || Shard::open(&target, Io::Pread).is_ok_and(|there| there.info() == shard.info());
            ensure!(
                same,
                "{} is there already and is another shard; merge into a fresh --out",
                target.display()
            );
            Ok(())
        }
        Err(_) => copy(shard.path(), &target)
            .with_context(|| format!("copying {} to {}", shard.path().display(), target.display())),
    }
}

fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    let temporary = to.with_extension("shard.copying");
    fs::copy(from, &temporary)?;
    fs::File::open(&temporary)?.sync_all()?;
    fs::rename(&temporary, to)
}
