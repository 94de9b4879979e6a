//! Does a set of 14.2 million records open at once, in little memory, and does it read as fast as one of ten thousand?
//!
//! `cargo run --release -p beit-shards --example open_large_sets [-- DIR [RECORDS]]` writes sets of 10 thousand, 1 million and
//! RECORDS (default 14,197,122: ImageNet-22k) tiny records into a fresh directory under DIR (default: the system's temporary
//! one), as many per shard as a gigabyte of photos has, and opens and reads each in a fresh process. About 5 GB, removed
//! at the end. Figures are per core; core time is what other work on the machine cannot stretch.

use beit_shards::{
    Catalog, Io, PAYLOAD_JPEG, ReadBuf, Record, SampleId, SetSpec, ShardSet, ShardWriter, TokenizerRef,
    ViewTokens, publish_manifest,
};
use std::error::Error;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

/// Records of a 1 GB shard of ImageNet photos (110 kB each).
const PER_SHARD: u64 = 9_467;
/// Records read for a rate.
const READS: u64 = 200_000;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [command, dir, io] = args.as_slice()
        && command == "look"
    {
        return look(Path::new(dir), io.parse()?);
    }
    let base = args.first().map_or_else(std::env::temp_dir, PathBuf::from);
    let most = args.get(1).map_or(Ok(14_197_122), |text| text.parse())?;
    let dir = base.join(format!("beit-shards-large-{}", std::process::id()));
    std::fs::create_dir(&dir)?;
    let done = [10_000, 1_000_000, most].iter().try_for_each(|&records| run(&dir, records));
    std::fs::remove_dir_all(&dir)?;
    done
}

fn run(base: &Path, records: u64) -> Result<(), Box<dyn Error>> {
    let dir = base.join(records.to_string());
    std::fs::create_dir(&dir)?;
    let clock = Clock::start();
    let shards = write(&dir, records)?;
    let (wall, core) = clock.seconds();
    let catalog = std::fs::metadata(dir.join(beit_shards::CATALOG_FILE))?.len();
    println!(
        "{records} records in {shards} shards and a catalog of {:.0} MB: written in {wall:.1} s, {core:.1} s on a core, {} MB own at the end",
        catalog as f64 / 1e6,
        memory("RssAnon") / 1000
    );
    for io in ["mmap", "pread"] {
        // The first look brings the files into the page cache; the second one is that of the figures.
        for last in [false, true] {
            let output = Command::new(std::env::current_exe()?)
                .args(["look".as_ref(), dir.as_os_str(), io.as_ref()])
                .output()?;
            if !output.status.success() {
                return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
            }
            if last {
                print!("{}", String::from_utf8(output.stdout)?);
            }
        }
    }
    Ok(std::fs::remove_dir_all(&dir)?)
}

fn write(dir: &Path, records: u64) -> Result<u64, Box<dyn Error>> {
    let spec = SetSpec {
        seed: 0,
        views: 1,
        view_spec: "simulated".to_owned(),
        tokenizer: TokenizerRef { digest: [0; 32], name: "simulated".to_owned(), vocab: 8192 },
        grid: (2, 2),
        payload: "original".to_owned(),
    };
    let classes: Vec<String> = (0..21_841).map(|class| format!("n{class:08}")).collect();
    let mut random = Random(records);
    let mut shard = 0;
    let mut at = 0;
    while at < records {
        let mut writer = ShardWriter::create(dir, shard, &spec, &classes)?;
        for number in at..(at + PER_SHARD).min(records) {
            let label = (number * 21_841 / records) as u32;
            let path = format!("n{label:08}/n{label:08}_{number}.JPEG");
            let payload: [[u8; 8]; 8] = std::array::from_fn(|_| random.next().to_le_bytes());
            let tokens: [u16; 4] = std::array::from_fn(|_| (random.next() % 8192) as u16);
            writer.push(&Record {
                id: SampleId::of_path(&path),
                label,
                path: &path,
                width: 500,
                height: 375,
                payload_kind: PAYLOAD_JPEG,
                payload: payload.as_flattened(),
                views: &[ViewTokens { grey: 128, tokens: &tokens }],
            })?;
        }
        writer.finish()?;
        at += PER_SHARD;
        shard += 1;
    }
    publish_manifest(dir, &spec, &classes, shard)?;
    Ok(shard)
}

/// In a process of its own: opens, reads, and says what that took.
fn look(dir: &Path, io: Io) -> Result<(), Box<dyn Error>> {
    let before = memory("VmRSS");
    let clock = Clock::start();
    let set = ShardSet::open(dir, io)?;
    let (open, open_core) = clock.seconds();
    let (resident, own) = (memory("VmRSS"), memory("RssAnon"));

    let mut buf = ReadBuf::new();
    let mut random = Random(7);
    let mut read = |count: u64| -> Result<(f64, f64), Box<dyn Error>> {
        let clock = Clock::start();
        for _ in 0..count {
            black_box(set.read(random.next() % set.len(), 0, &mut buf)?);
        }
        let (wall, core) = clock.seconds();
        Ok((wall / count as f64 * 1e9, core / count as f64 * 1e9))
    };
    let (first, first_core) = read(READS)?;
    let (warm, warm_core) = read(READS)?;
    let (own_read, mapped) = (memory("RssAnon"), memory("RssFile"));
    println!(
        "  {io}: opened in {:.0} ms ({:.0} ms on a core), {:.1} MB resident then ({:.1} MB of them before, {:.1} MB own); random reads: first \
         {first_core:.0} ns on a core each ({first:.0} ns passed), then {warm_core:.0} ns ({warm:.0} ns); {:.1} MB own after them, {:.0} MB of the page cache mapped",
        open * 1e3,
        open_core * 1e3,
        resident as f64 / 1e3,
        before as f64 / 1e3,
        own as f64 / 1e3,
        own_read as f64 / 1e3,
        mapped as f64 / 1e3
    );
    if io == Io::Pread {
        let clock = Clock::start();
        let catalog = Catalog::open(dir)?;
        let (open, open_core) = clock.seconds();
        let name = set.read(set.len() / 2, 0, &mut buf)?.path.to_owned();
        let clock = Clock::start();
        let found = catalog.find_path(&name)?.ok_or("a sample the catalog does not know")?;
        let (find, _) = clock.seconds();
        assert_eq!(set.index_of(found.shard, found.index), Some(set.len() / 2));
        println!(
            "  catalog: checked and opened in {:.0} ms ({:.0} ms on a core), a path found in {:.0} µs",
            open * 1e3,
            open_core * 1e3,
            find * 1e6
        );
    }
    Ok(())
}

/// A line of `/proc/self/status`, kB.
fn memory(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// The time that passed and the time this thread spent on a core (Linux).
struct Clock {
    wall: Instant,
    core_ns: u64,
}

impl Clock {
    fn start() -> Self {
        Self { wall: Instant::now(), core_ns: core_ns() }
    }

    fn seconds(&self) -> (f64, f64) {
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
}
