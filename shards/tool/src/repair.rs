//! `beit-shard repair`: damaged shards are written again, from what is sound of them and from the source.
//!
//! Sound records are copied byte for byte, sound pieces of damaged ones kept, and only what is lost is made again from the
//! source image. A shard is published only if it came out as the manifest says, byte for byte; otherwise what is there
//! stays as it is. So a repair can fail, but not make anything worse.

mod again;
mod gather;

use crate::pack;
use crate::pixels::Pixels;
use crate::prepare::{Making, Preparer};
use crate::room::Room;
use crate::shards;
use crate::source::{Entry, Source};
use crate::stages::Stages;
use again::{Again, Maker, number_of};
use anyhow::{Context, Result, bail, ensure};
use beit_shards::{Catalog, Covered, Io, Manifest, SetSpec, Shard, ShardInfo, shard_file_name};
use beit_views::ViewSpec;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Write damaged shards again, from what is sound of them and from the source
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    beit-shard repair imagenet22k/ --shards imagenet22k.shards\n  \
    beit-shard repair photos/ --shards photos.shards --json | jq .failed\n\n\
    Sound records are copied, lost ones made again from their images; a shard is replaced only by one that is byte for byte\n\
    what the set was published with. Exit code 0 only when the whole set is sound afterwards.")]
pub struct Args {
    /// The sources the set was built from, as they were given to build
    #[arg(required = true, value_name = "SRC")]
    sources: Vec<PathBuf>,
    /// The shards [default: the only *.shards directory here]
    #[arg(long, value_name = "DIR")]
    shards: Option<PathBuf>,
    /// The tokenizer that made the tokens [default: as for build]
    #[arg(long, value_name = "embedded|FILE|DIR")]
    tokenizer: Option<String>,
    /// Print what was done as one object on stdout
    #[arg(long)]
    json: bool,
}

/// What became of one damaged shard.
#[derive(Debug, Serialize)]
struct Mended {
    shard: String,
    /// Records copied as they were.
    copied: u64,
    /// Records of which something was made again.
    remade: u64,
}

/// A shard that stays damaged.
#[derive(Debug, Serialize)]
struct Failed {
    shard: String,
    why: String,
}

#[derive(Debug, Default, Serialize)]
struct Report {
    sound: bool,
    repaired: Vec<Mended>,
    failed: Vec<Failed>,
    catalog_rewritten: bool,
    manifest_rewritten: bool,
}

/// Repairs and reports.
pub fn run(args: &Args) -> Result<ExitCode> {
    let dir = shards::directory(args.shards.as_deref())?;
    let source = Source::open(&args.sources)?;
    let _lock = pack::lock(&dir)?;
    let set = Truth::find(&dir, &source)?;
    let (damaged, catalog) = set.look(&dir);
    let mut report = Report::default();
    if damaged.is_empty() && !catalog && set.published {
        report.sound = true;
    } else {
        for (number, why) in &damaged {
            eprintln!("beit-shard: {}: {why}", set.shards[*number].file);
        }
        mend(args, &dir, &source, &set, &damaged, &mut report)?;
        report.sound = report.failed.is_empty();
        if report.sound && (catalog || !set.published) {
            set.publish(&dir, &source)?;
            report.catalog_rewritten = catalog;
            report.manifest_rewritten = !set.published;
        }
    }
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        report.print(&dir);
    }
    Ok(if report.sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Report {
    fn print(&self, dir: &Path) {
        for Mended { shard, copied, remade } in &self.repaired {
            println!("{shard}: repaired: {copied} records copied, {remade} made again; as it was published");
        }
        for Failed { shard, why } in &self.failed {
            eprintln!("beit-shard: {shard} stays as it is: {why}");
        }
        if self.manifest_rewritten || self.catalog_rewritten {
            println!("Catalog and manifest were derived from the shards again.");
        }
        match self {
            Self { sound: true, repaired, .. }
                if repaired.is_empty() && !self.catalog_rewritten && !self.manifest_rewritten =>
            {
                println!("{}: sound, nothing to repair", dir.display());
            }
            Self { sound: true, .. } => println!("{}: sound again", dir.display()),
            _ => eprintln!(
                "beit-shard: {} of the damaged shards could not be repaired; everything that is sound was kept",
                self.failed.len()
            ),
        }
    }
}

/// What the set must be.
struct Truth {
    spec: SetSpec,
    classes: Vec<String>,
    shards: Vec<ShardInfo>,
    /// Entries of the source listing.
    entries: u64,
    /// Whether the manifest is there and sound.
    published: bool,
}

impl Truth {
    /// From the manifest, or, if that is lost, from the footers of all shards: they are worth as much, but nobody knows
    /// whether they are all.
    fn find(dir: &Path, source: &Source) -> Result<Self> {
        let lost = match Manifest::read(dir) {
            Ok(manifest) => {
                let classes: HashSet<&String> = source.classes().iter().collect();
                ensure!(
                    manifest.classes.iter().all(|class| classes.contains(class)),
                    "the source has other classes than {}: give the sources as they were given to build",
                    dir.display()
                );
                let entries = manifest.samples() + manifest.quarantined;
                let Manifest { spec, classes, shards, .. } = manifest;
                return Ok(Self { spec, classes, shards, entries, published: true });
            }
            Err(error) => error,
        };
        let mut shards: Vec<Shard> = Vec::new();
        while dir.join(shard_file_name(shards.len() as u64)).exists() {
            let path = dir.join(shard_file_name(shards.len() as u64));
            let shard = Shard::open(&path, Io::Pread).with_context(|| {
                format!("{lost}; and without a manifest nobody knows what a shard without a footer held; delete {} and run \
                         `beit-shard build` again, it keeps the shards before it", path.display())
            })?;
            shards.push(shard);
        }
        let Some(first) = shards.first() else { bail!("{lost}") };
        let spec = first.spec().clone();
        let entries = shards.iter().map(|shard| shard.footer().covered.entries).sum();
        let mut listed = 0;
        source.walk(&(0..0), &mut |_| {
            listed += 1;
            Ok(ControlFlow::Continue(()))
        })?;
        ensure!(
            listed == entries && shards.iter().all(|shard| shard.spec().difference(&spec).is_none()),
            "{lost}; and its shards are not all there: they cover {entries} of {listed} entries of the source; run \
             `beit-shard build` again, it goes on behind them"
        );
        let shards = shards.iter().map(Shard::info).collect();
        Ok(Self { spec, classes: source.classes().to_vec(), shards, entries, published: false })
    }

    /// How many classes the set may have had when a shard was written: a watched set's grow. What its own footer says, or,
    /// if that is lost, what the other footers say.
    fn class_counts(&self, dir: &Path, number: usize) -> BTreeSet<usize> {
        let count = |info: &ShardInfo| {
            let shard = Shard::open(&dir.join(&info.file), Io::Pread).ok()?;
            (shard.digest() == info.digest).then_some(shard.footer().classes as usize)
        };
        match count(&self.shards[number]) {
            Some(own) => [own].into(),
            None => self.shards.iter().filter_map(count).chain([self.classes.len()]).collect(),
        }
    }

    /// The damaged shards, each with the first thing that is wrong, and whether the catalog is to be written again.
    fn look(&self, dir: &Path) -> (BTreeMap<usize, String>, bool) {
        let (mut damaged, mut catalog) = (BTreeMap::new(), false);
        let note = |shard: usize, why: String, damaged: &mut BTreeMap<usize, String>| {
            damaged.entry(shard).or_insert(why);
        };
        if self.published {
            // Read a moment ago, under the lock.
            if let Ok(manifest) = Manifest::read(dir) {
                let (_, found) = manifest.verify(dir, Io::Auto, &mut |_| {});
                for (shard, damage) in found {
                    match shard {
                        Some(shard) => note(shard, damage.error.to_string(), &mut damaged),
                        None => catalog = true,
                    }
                }
            }
        } else {
            catalog = true;
            for (number, info) in self.shards.iter().enumerate() {
                match Shard::open(&dir.join(&info.file), Io::Auto) {
                    Ok(shard) => {
                        if let Some(damage) = shard.verify_all(&mut |_| {}).damaged.first() {
                            note(number, damage.error.to_string(), &mut damaged);
                        }
                    }
                    Err(error) => note(number, error.to_string(), &mut damaged),
                }
            }
        }
        (damaged, catalog)
    }

    fn publish(&self, dir: &Path, source: &Source) -> Result<()> {
        let classes = if self.published { &self.classes } else { source.classes() };
        let numbers = self.shards.iter().map(number_of).collect::<Result<Vec<u64>>>()?;
        beit_shards::publish_shards(dir, &self.spec, classes, &numbers, 0)?;
        Ok(())
    }
}

/// Consecutive damaged shards whose common stretch of the listing is known.
struct Run {
    shards: Vec<usize>,
    first: u64,
    end: u64,
    /// Path and reason of what the footers, if they are readable, say was kept out.
    quarantined: HashMap<String, String>,
    /// Whether that is all of it.
    quarantine_known: bool,
    entries: Vec<Entry>,
}

fn mend(
    args: &Args,
    dir: &Path,
    source: &Source,
    set: &Truth,
    damaged: &BTreeMap<usize, String>,
    report: &mut Report,
) -> Result<()> {
    let mut runs = runs(dir, set, damaged);
    let listed = match Catalog::open(dir) {
        Ok(catalog) if set.published => gather::by_catalog(dir, source, set, &mut runs, &catalog)?,
        _ => gather::by_position(source, &mut runs)?,
    };
    if listed != set.entries {
        eprintln!(
            "beit-shard: the source has {listed} images now, {} when the set was built: files were added or removed, so \
             not everything may come out as it was",
            set.entries
        );
    }
    let view_spec: ViewSpec = set.spec.view_spec.parse().context("reading the set's view specification")?;
    let pixels: Pixels = set.spec.payload.parse()?;
    let (seed, views) = (set.spec.seed, set.spec.views);
    let stages = Stages::start();
    let mut maker = Maker {
        named: args.tokenizer.as_deref(),
        spec: &set.spec,
        view_px: view_spec.token_px,
        pixels,
        preparer: Preparer::new(Making { spec: &view_spec, seed, views, pixels }, &stages, Room::endless()),
        tokenizer: None,
    };
    for run in &runs {
        let mut from = run.first;
        for (place, &number) in run.shards.iter().enumerate() {
            let last = place + 1 == run.shards.len();
            let info = &set.shards[number];
            let entries = &run.entries[((from - run.first) as usize).min(run.entries.len())..];
            let mut again =
                Again { info, run, entries, last, taken: 0, suspects: Vec::new(), mended: Mended::of(info) };
            match again.write(dir, set, &set.class_counts(dir, number), &mut maker) {
                Ok(()) => report.repaired.push(again.mended),
                Err(error) => {
                    let why = again.explain(&error);
                    report.failed.push(Failed { shard: info.file.clone(), why });
                    if !last {
                        for &number in &run.shards[place + 1..] {
                            let shard = set.shards[number].file.clone();
                            let why = format!("where it starts is known only once {} is whole", info.file);
                            report.failed.push(Failed { shard, why });
                        }
                        break;
                    }
                }
            }
            from += again.taken;
        }
    }
    Ok(())
}

/// Groups damaged shards so that the first and last entry of each group are known from footers.
fn runs(dir: &Path, set: &Truth, damaged: &BTreeMap<usize, String>) -> Vec<Run> {
    let covered = |number: usize| -> Option<(Covered, Vec<(String, String)>)> {
        let shard = Shard::open(&dir.join(&set.shards.get(number)?.file), Io::Pread).ok()?;
        // A sound footer of another set says nothing about this one.
        let ours = shard.info().digest == set.shards[number].digest;
        ours.then(|| (shard.footer().covered, shard.footer().quarantine.clone()))
    };
    let mut runs: Vec<Run> = Vec::new();
    let mut open: Option<Run> = None;
    let mut end_of_previous = 0;
    for number in 0..set.shards.len() {
        let known = covered(number);
        if let Some((covered, _)) = &known {
            if let Some(mut run) = open.take() {
                run.end = covered.first_entry;
                runs.push(run);
            }
            end_of_previous = covered.first_entry + covered.entries;
        }
        match known {
            Some((covered, quarantine)) if damaged.contains_key(&number) => runs.push(Run {
                shards: vec![number],
                first: covered.first_entry,
                end: covered.first_entry + covered.entries,
                quarantined: quarantine.into_iter().collect(),
                quarantine_known: true,
                entries: Vec::new(),
            }),
            Some(_) => {}
            None => {
                let first = end_of_previous;
                let run = open.get_or_insert_with(|| Run {
                    shards: Vec::new(),
                    first,
                    end: set.entries,
                    quarantined: HashMap::new(),
                    quarantine_known: false,
                    entries: Vec::new(),
                });
                run.shards.push(number);
            }
        }
    }
    runs.extend(open);
    runs
}
