//! What a loader takes from the machine, and what it leaves: a binary of its own, because it counts allocations.
#![expect(unsafe_code, reason = "a global allocator that counts; it passes everything on to the system's")]
#![expect(clippy::unwrap_used, reason = "helpers of tests; clippy looks for the test attribute only")]

#[path = "../src/testing.rs"]
mod testing;

use beit_loader::{Loader, Options, Order, RankBatches, Shuffle};
use beit_shards::{Io, PAYLOAD_JPEG, PAYLOAD_RGB, ReadBuf, ShardSet};
use beit_views::{MaskSpec, ViewSpec};
use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use testing::{TestSet, image, noise};

/// Passes everything on to the system's allocator, and counts.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static LIVE_BYTES: AtomicI64 = AtomicI64::new(0);

// SAFETY: every call is passed on as it came; counting touches no memory but two atomics.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
        LIVE_BYTES.fetch_add(layout.size() as i64, Relaxed);
        // SAFETY: the caller's promises are the ones that are asked for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        LIVE_BYTES.fetch_sub(layout.size() as i64, Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
        LIVE_BYTES.fetch_add(new_size as i64 - layout.size() as i64, Relaxed);
        // SAFETY: as above.
        unsafe { System.realloc(ptr, layout, new_size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// The counters are the process's: one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

fn options(set: &TestSet, workers: usize) -> Options {
    let mask = MaskSpec { num_mask_patches: 6, min_mask_patches_per_block: 2, ..MaskSpec::default() };
    Options { view_px: 32, mask, batch_size: 8, workers, ..Options::new(set.open()) }
}

/// Allocations of the whole process while so many batches pass.
fn allocations(ranks: &mut [RankBatches], batches: u64) -> u64 {
    let before = ALLOCATIONS.load(Relaxed);
    for _ in 0..batches {
        ranks.iter_mut().for_each(|rank| drop(rank.next().unwrap()));
    }
    ALLOCATIONS.load(Relaxed) - before
}

#[test]
fn nothing_is_allocated_once_a_worker_has_seen_every_view() {
    let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    // JPEGs of real photos in their restart-marker layout, and raw RGB, in turn.
    let set = TestSet::of(24, 2);
    let blocks = Shuffle::Blocks { block_samples: 5, window_blocks: 2 };
    for (io, shuffle) in [Io::Mmap, Io::Pread].into_iter().flat_map(|io| [(io, Shuffle::Full), (io, blocks)])
    {
        let shards = Arc::new(ShardSet::open(set.dir.path(), io).unwrap());
        assert_eq!(kinds(&shards), [PAYLOAD_JPEG, PAYLOAD_RGB].into());
        let mut loader = Loader::start(Options { shards, shuffle, ..options(&set, 1) }).unwrap();
        let mut ranks = [loader.take_rank(0)];
        // Two epochs show each sample in both views; the slots are a few batches ahead of us.
        let growing = allocations(&mut ranks, 6);
        assert!(growing > 0, "the counter counts");
        assert_eq!(allocations(&mut ranks, 60), 0, "{io}, {shuffle}");
    }
}

/// The kinds of payload in a set.
fn kinds(set: &ShardSet) -> BTreeSet<u8> {
    let mut buf = ReadBuf::new();
    (0..set.len()).map(|sample| set.read(sample, 0, &mut buf).unwrap().payload_kind).collect()
}

#[test]
fn an_order_of_any_size_takes_no_memory() {
    let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let before = ALLOCATIONS.load(Relaxed);
    let mut seen = 0;
    for shuffle in [Shuffle::Full, Shuffle::BLOCKS] {
        for samples in [14_197_122, 10_000_000_000] {
            let order = Order::shuffled(1, samples, 16, shuffle);
            seen += (0..1000)
                .map(|part| order.at(part * samples / 100 + 7).sample)
                .filter(|&at| at < samples)
                .count();
        }
    }
    assert_eq!((seen, ALLOCATIONS.load(Relaxed) - before), (4000, 0));
}

#[test]
fn nothing_is_allocated_by_many_workers_for_many_ranks() {
    let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    // Views of one size only, so that a worker's buffers have grown after its first sample.
    let spec = ViewSpec { crop_scale: (1.0, 1.0), crop_ratio: (1.0, 1.0), ..ViewSpec::default() };
    let mut set = TestSet::new(2, &spec);
    let image = image("noise.png".into(), b"", noise(48, 48, 1));
    set.push((0..20).map(|number| (number, &image)));
    set.publish();
    let mut loader = Loader::start(Options { world_size: 3, ranks: 0..3, ..options(&set, 4) }).unwrap();
    let mut ranks: Vec<_> = (0..3).map(|rank| loader.take_rank(rank)).collect();
    // On a busy machine a worker may sleep through the first rounds; one allocation per batch would fail them all.
    let rounds: Vec<u64> = (0..10).map(|_| allocations(&mut ranks, 200)).collect();
    assert!(rounds.contains(&0), "{rounds:?}");
}

#[test]
fn a_loader_leaves_neither_memory_nor_threads_behind() {
    let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let set = TestSet::of(24, 2);
    let round = |number: usize| {
        let mut loader = Loader::start(options(&set, 1 + number % 4)).unwrap();
        let mut rank = loader.take_rank(0);
        (0..number % 3).for_each(|_| drop(rank.next().unwrap()));
        if number.is_multiple_of(2) {
            loader.stop();
        }
    };
    // The first round may fill caches of the standard library that stay.
    (0..4).for_each(round);
    let (threads, bytes, resident) = (threads(), LIVE_BYTES.load(Relaxed), resident_kb());
    (0..60).for_each(round);
    // The test harness has a few bytes of its own; a leak of 100 bytes in each round would be 6000.
    let grown = LIVE_BYTES.load(Relaxed) - bytes;
    assert!(grown < 4096, "{grown} bytes more");
    assert!(self::threads() <= threads);
    // Also what C libraries allocate; a leak of one slot (74 kB) in each round would be 4 MB.
    let grown = resident_kb() - resident;
    assert!(grown < 4000, "{grown} kB more");
}

fn status(key: &str) -> i64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
    line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().unwrap()
}

fn threads() -> i64 {
    status("Threads")
}

fn resident_kb() -> i64 {
    status("VmRSS")
}
