//! How much does reading ahead save when the page cache is cold, mapped and read at offsets, in either order?
//!
//! `cargo bench -p beit-loader --bench cold_cache [-- --dir DIR.shards] [--records N] [--rounds N] [--in DIR]` packs N
//! records of 110 kB into a fresh directory under DIR (default: the system's temporary one), or takes shards that are
//! there, and runs one epoch of the loader, one worker, for each row. Before each row the shards' pages are dropped
//! (`posix_fadvise`, which needs no rights). Rows come once in each round; ratios are taken within a round.
//! A virtual disk may answer from a cache of its host's: only the order of the rows is meant.

use beit_loader::{Loader, Options, Shuffle};
use beit_shards::{
    Io, PAYLOAD_RGB, Record, SampleId, SetSpec, ShardSet, ShardWriter, TokenizerRef, ViewTokens,
    publish_manifest,
};
use beit_views::ViewSpec;
use std::error::Error;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

/// 192 × 192 pixels: 110,592 bytes, about the mean of ImageNet's files.
const SIDE: u32 = 192;
const PER_SHARD: u64 = 1000;
const BATCH: u64 = 50;
const TOKENS: usize = 196;

type Done<T> = Result<T, Box<dyn Error>>;

fn main() -> Done<()> {
    // Cargo passes `--bench`.
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let value = |name: &str| args.iter().position(|arg| arg == name).and_then(|at| args.get(at + 1));
    let number = |name: &str, default: u64| value(name).map_or(Ok(default), |text| text.parse());
    let rounds = number("--rounds", 3)?;
    if let Some(dir) = value("--dir") {
        return compare(Path::new(dir), rounds);
    }
    let base = value("--in").map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = base.join(format!("beit-loader-cold-{}", std::process::id()));
    let done = pack(&dir, number("--records", 6000)?).and_then(|()| compare(&dir, rounds));
    std::fs::remove_dir_all(&dir)?;
    done
}

/// Packs records of noise, which no file system compresses away.
fn pack(dir: &Path, records: u64) -> Done<()> {
    std::fs::create_dir(dir)?;
    let tokenizer = TokenizerRef { digest: [0; 32], name: "none".into(), vocab: 8192 };
    let (view_spec, payload) = (ViewSpec::default().to_string(), "original".into());
    let spec = SetSpec { seed: 0, views: 4, view_spec, tokenizer, grid: (14, 14), payload };
    let classes = vec!["class".to_owned()];
    let mut state = 1u64;
    let mut pixels = vec![0; (SIDE * SIDE * 3) as usize];
    let shards = records.div_ceil(PER_SHARD);
    for shard in 0..shards {
        let mut writer = ShardWriter::create(dir, shard, &spec, &classes)?;
        for number in shard * PER_SHARD..((shard + 1) * PER_SHARD).min(records) {
            for word in pixels.chunks_exact_mut(8) {
                // Marsaglia's xorshift.
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                word.copy_from_slice(&state.to_le_bytes());
            }
            let path = format!("class/{number}.png");
            let tokens = [0; TOKENS];
            let views = [ViewTokens { grey: 128, tokens: &tokens }; 4];
            let id = SampleId::of_path(&path);
            let (width, height, payload_kind) = (SIDE, SIDE, PAYLOAD_RGB);
            let (payload, views) = (&pixels[..], &views[..]);
            writer.push(&Record {
                id,
                label: 0,
                path: &path,
                width,
                height,
                payload_kind,
                payload,
                views,
            })?;
        }
        writer.finish()?;
    }
    publish_manifest(dir, &spec, &classes, shards)?;
    Ok(())
}

/// One row of the table.
#[derive(Clone, Copy)]
struct Row {
    io: Io,
    shuffle: Shuffle,
    read_ahead: u32,
    cold: bool,
}

fn compare(dir: &Path, rounds: u64) -> Done<()> {
    let set = ShardSet::open(dir, Io::Auto)?;
    let (samples, bytes) = (set.len(), set.shards().iter().map(beit_shards::Shard::bytes).sum::<u64>());
    drop(set);
    // Two windows of blocks hold a tenth of the set.
    let block_samples = (samples / 200).max(1);
    let blocks = Shuffle::Blocks { block_samples, window_blocks: 10 };
    let row = |io, shuffle, read_ahead, cold| Row { io, shuffle, read_ahead, cold };
    let mut rows = Vec::new();
    for io in [Io::Mmap, Io::Pread] {
        rows.extend([0, 8, 32, 64, 128, 256].map(|read_ahead| row(io, Shuffle::Full, read_ahead, true)));
        rows.extend([0, 64].map(|read_ahead| row(io, blocks, read_ahead, true)));
        rows.extend([0, 64].map(|read_ahead| row(io, Shuffle::Full, read_ahead, false)));
    }
    let mut times = vec![Vec::new(); rows.len()];
    for _ in 0..rounds {
        for (row, times) in rows.iter().zip(&mut times) {
            times.push(epoch(dir, row)?);
        }
    }
    println!(
        "{samples} records, {:.0} MB; blocks of {block_samples} samples in windows of 10",
        bytes as f64 / 1e6
    );
    println!("median of {rounds} rounds, one worker; ratio to the first row of the same round\n");
    println!("| cache | io | order | ahead | us by the clock | ratio | us of processor |");
    println!("|---|---|---|---|---|---|---|");
    let base = times[0].clone();
    for (row, times) in rows.iter().zip(&times) {
        let clock = median(times.iter().map(|(clock, _)| *clock));
        let ratio = median(times.iter().zip(&base).map(|(time, base)| time.0 / base.0));
        let core = median(times.iter().map(|(_, core)| *core));
        let cache = if row.cold { "cold" } else { "warm" };
        let order = if row.shuffle == Shuffle::Full { "shuffle" } else { "blocks" };
        println!(
            "| {cache} | {} | {order} | {} | {clock:.0} | {ratio:.3} | {core:.0} |",
            row.io, row.read_ahead
        );
    }
    Ok(())
}

/// Microseconds per sample of one epoch: by the clock, and of the worker's processor time.
fn epoch(dir: &Path, row: &Row) -> Done<(f64, f64)> {
    for file in std::fs::read_dir(dir)? {
        let file = File::open(file?.path())?;
        if row.cold {
            // Nothing is mapped here, so that every clean page goes.
            file.sync_all()?;
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
        } else if file.metadata()?.is_file() {
            std::io::copy(&mut &file, &mut std::io::sink())?;
        }
    }
    let shards = Arc::new(ShardSet::open(dir, row.io)?);
    let steps = shards.len() / BATCH;
    let Row { shuffle, read_ahead, .. } = *row;
    let patches = u32::from(shards.spec().grid.0);
    // Views as small as they can be: what is left is reading.
    let view_px = patches;
    let started = Instant::now();
    let mut loader = Loader::start(Options {
        view_px,
        batch_size: BATCH as u32,
        workers: 1,
        shuffle,
        read_ahead,
        ..Options::new(shards)
    })?;
    let mut rank = loader.take_rank(0);
    for _ in 0..steps {
        rank.next()?;
    }
    let clock = started.elapsed();
    let stats = loader.stats();
    loader.stop();
    let core = stats.cpu_ns.load(Relaxed) as f64 / 1e3 / stats.images.load(Relaxed).max(1) as f64;
    Ok((clock.as_secs_f64() * 1e6 / (steps * BATCH) as f64, core))
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
