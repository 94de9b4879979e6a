//! How fast are shards written and read, in order and shuffled, mapped and at offsets; and how should tokens be packed?
//!
//! `cargo run --release -p beit-shards --example read_shuffled_vs_sequential [-- RECORDS PAYLOAD_BYTES VIEWS [DIR]]`
//! writes a set of random payloads into a fresh directory under DIR (default: the system's temporary one), reads it
//! warm with one thread, and removes it. One line per question, figures per core.

use beit_shards::inner::{pack_tokens, packed_len, token_bits, unpack_tokens};
use beit_shards::{
    Io, PAYLOAD_JPEG, ReadBuf, Record, SampleId, SetSpec, ShardSet, ShardWriter, TokenizerRef, ViewTokens,
    publish_manifest,
};
use std::error::Error;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Tokens of a 14×14 grid.
const TOKENS: usize = 196;
const PER_SHARD: u64 = 1000;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |i: usize, default: u64| args.get(i).map_or(Ok(default), |arg| arg.parse());
    let (records, payload, views) = (number(0, 4000)?, number(1, 110_000)? as usize, number(2, 16)? as u32);
    let base = args.get(3).map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = base.join(format!("beit-shards-bench-{}", std::process::id()));
    std::fs::create_dir(&dir)?;
    let result = token_codecs().and_then(|()| set(&dir, records, payload, views));
    std::fs::remove_dir_all(&dir)?;
    result
}

/// A clock of the time that passed and the time this thread spent on a core (Linux), which other work cannot stretch.
#[derive(Clone, Copy)]
struct Clock {
    wall: Instant,
    core_ns: u64,
}

impl Clock {
    fn start() -> Self {
        Self { wall: Instant::now(), core_ns: core_ns() }
    }

    /// Seconds since the start: passed, and on a core.
    fn seconds(self) -> (f64, f64) {
        (self.wall.elapsed().as_secs_f64(), (core_ns() - self.core_ns) as f64 / 1e9)
    }
}

fn core_ns() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or_default()
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// Grids whose token frequencies fall with rank^-`slope`; each token repeats its left neighbour with chance `repeat`.
fn grids(vocab: u32, slope: f64, repeat: f64) -> Vec<Vec<u16>> {
    let weights: Vec<f64> = (1..=vocab).map(|rank| f64::from(rank).powf(-slope)).collect();
    let total: f64 = weights.iter().sum();
    let mut sum = 0.0;
    let cumulative: Vec<f64> = weights
        .iter()
        .map(|weight| {
            sum += weight / total;
            sum
        })
        .collect();
    let mut random = Random(1);
    let mut grid = || {
        let mut last = 0;
        (0..TOKENS)
            .map(|_| {
                if random.unit() >= repeat {
                    let drawn = random.unit();
                    last = cumulative.partition_point(|&end| end < drawn).min(vocab as usize - 1) as u16;
                }
                last
            })
            .collect()
    };
    (0..2000).map(|_| grid()).collect()
}

/// Bytes and decode time of one view's tokens, bit-packed and through zstd.
fn token_codecs() -> Result<(), Box<dyn Error>> {
    println!(
        "tokens of one 14x14 view          entropy |  packed bytes, ns | zstd -3 bytes, ns | zstd split bytes, ns"
    );
    for (vocab, slope, repeat, name) in [
        (8192, 0.0, 0.0, "8192 uniform"),
        (8192, 0.7, 0.0, "8192, rank^-0.7"),
        (8192, 1.0, 0.3, "8192, rank^-1, 30 % repeats"),
        (512, 0.5, 0.0, "512, rank^-0.5"),
        (512, 1.0, 0.5, "512, rank^-1, 50 % repeats"),
    ] {
        let grids = grids(vocab, slope, repeat);
        let bits = token_bits(vocab);
        let packed: Vec<Vec<u8>> = grids
            .iter()
            .map(|grid| {
                let mut out = Vec::new();
                pack_tokens(grid, bits, &mut out);
                out.extend([0; 8]);
                out
            })
            .collect();
        let mut tokens = [0_u16; TOKENS];
        let pack_ns = time(&packed, |packed| {
            black_box(unpack_tokens(black_box(packed), bits, &mut tokens));
            black_box(&tokens);
        });

        let mut compressor = zstd::bulk::Compressor::new(3)?;
        let mut decompressor = zstd::bulk::Decompressor::new()?;
        let plain = |grid: &Vec<u16>| grid.iter().flat_map(|token| token.to_le_bytes()).collect::<Vec<u8>>();
        let split = |grid: &Vec<u16>| {
            let low = grid.iter().map(|token| *token as u8);
            low.chain(grid.iter().map(|token| (token >> 8) as u8)).collect::<Vec<u8>>()
        };
        let mut columns = Vec::new();
        for form in [&plain as &dyn Fn(&Vec<u16>) -> Vec<u8>, &split] {
            let frames =
                grids.iter().map(|grid| compressor.compress(&form(grid))).collect::<Result<Vec<_>, _>>()?;
            let bytes = frames.iter().map(Vec::len).sum::<usize>() as f64 / frames.len() as f64;
            let mut out = vec![0; 2 * TOKENS];
            let ns = time(&frames, |frame| {
                black_box(decompressor.decompress_to_buffer(frame, out.as_mut_slice()).is_ok());
            });
            columns.push(format!("{bytes:8.1} {ns:8.0}"));
        }
        let entropy = entropy(&grids, vocab) * TOKENS as f64 / 8.0;
        let bytes = packed_len(TOKENS, bits);
        println!("{name:<30} {entropy:8.1} B | {bytes:8} {pack_ns:8.0} | {}", columns.join(" | "));
    }
    Ok(())
}

/// Bits per token, were all tokens drawn by themselves.
fn entropy(grids: &[Vec<u16>], vocab: u32) -> f64 {
    let mut counts = vec![0_u64; vocab as usize];
    grids.iter().flatten().for_each(|&token| counts[usize::from(token)] += 1);
    let total: u64 = counts.iter().sum();
    let share = |count: u64| count as f64 / total as f64;
    counts.iter().filter(|count| **count > 0).map(|&count| -share(count) * share(count).log2()).sum()
}

/// Nanoseconds per item: best of five rounds.
fn time<T>(items: &[T], mut each: impl FnMut(&T)) -> f64 {
    let mut best = f64::INFINITY;
    for _ in 0..5 {
        let start = Instant::now();
        items.iter().for_each(&mut each);
        best = best.min(start.elapsed().as_nanos() as f64 / items.len() as f64);
    }
    best
}

fn set(dir: &Path, records: u64, payload: usize, views: u32) -> Result<(), Box<dyn Error>> {
    println!("\n{records} records of {payload} payload bytes and {views} views, one thread, warm");
    let spec = SetSpec {
        seed: 1,
        views,
        view_spec: "bench".to_owned(),
        tokenizer: TokenizerRef { digest: [1; 32], name: "bench".to_owned(), vocab: 8192 },
        grid: (14, 14),
        payload: "original".to_owned(),
    };
    let classes = ["all".to_owned()];
    let mut random = Random(2);
    let bytes: Vec<u8> = (0..payload).map(|_| random.next() as u8).collect();
    let tokens: Vec<u16> = (0..TOKENS).map(|_| (random.next() % 8192) as u16).collect();
    let view_tokens = vec![ViewTokens { grey: 128, tokens: &tokens }; views as usize];

    let start = Clock::start();
    let shards = records.div_ceil(PER_SHARD);
    for number in 0..shards {
        let mut writer = ShardWriter::create(dir, number, &spec, &classes)?;
        for index in number * PER_SHARD..records.min((number + 1) * PER_SHARD) {
            let path = format!("all/{index}.jpg");
            writer.push(&Record {
                id: SampleId::of_path(&path),
                label: 0,
                path: &path,
                width: 500,
                height: 375,
                payload_kind: PAYLOAD_JPEG,
                payload: &bytes,
                views: &view_tokens,
            })?;
        }
        writer.finish()?;
    }
    let seconds = start.seconds();
    let start = Instant::now();
    let total = publish_manifest(dir, &spec, &classes, shards)?.bytes();
    report("write (with fsync)", records, total, seconds);
    println!("{:<28} {:10.3} s", "catalog and manifest", start.elapsed().as_secs_f64());
    let start = Instant::now();
    let set = ShardSet::open(dir, Io::Mmap)?;
    println!("{:<28} {:10.3} ms for {shards} shards", "open", start.elapsed().as_secs_f64() * 1e3);

    let mut order: Vec<u64> = (0..records).collect();
    for name in ["sequential", "shuffled"] {
        for io in [Io::Mmap, Io::Pread] {
            let set = ShardSet::open(dir, io)?;
            let mut buf = ReadBuf::new();
            let mut best = (f64::INFINITY, f64::INFINITY);
            for round in 0..4_u32 {
                let start = Clock::start();
                for &index in &order {
                    let sample = set.read(index, round % views, &mut buf)?;
                    black_box((sample.payload.len(), sample.tokens[0]));
                }
                let (wall, core) = start.seconds();
                best = (best.0.min(wall), best.1.min(core));
            }
            report(&format!("read {name}, {io}"), records, records * (payload + 328) as u64, best);
        }
        for i in (1..order.len()).rev() {
            order.swap(i, (random.next() % (i as u64 + 1)) as usize);
        }
    }
    let start = Clock::start();
    let found = set.verify_all(&mut |_| {});
    report("verify", records, found.progress.bytes, start.seconds());
    if found.is_sound() { Ok(()) } else { Err("the set just written is damaged".into()) }
}

fn report(name: &str, records: u64, bytes: u64, (wall, core): (f64, f64)) {
    println!(
        "{name:<24} passed {:8.0} records/s {:6.2} GB/s | on one core {:8.0} records/s {:6.2} GB/s {:7.2} us/record",
        records as f64 / wall,
        bytes as f64 / wall / 1e9,
        records as f64 / core,
        bytes as f64 / core / 1e9,
        core * 1e6 / records as f64
    );
}
