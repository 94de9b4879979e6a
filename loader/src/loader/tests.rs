use super::*;
use crate::order::{Generation, Placed, Shuffle};
use crate::testing::{SEED, TestSet, image, noise};
use beit_shards::{IndexEntry, Io, PAYLOAD_JPEG, PAYLOAD_RGB, ReadBuf, SampleId, ShardSet};
use beit_views::{
    Interpolation, MaskSpec, PatchGrid, Payload, PayloadKind, Purpose, Renderer, SeedKey, StageTimes, View,
    ViewSpec, draw_mask,
};
use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const MASK: MaskSpec = MaskSpec {
    num_mask_patches: 6,
    min_mask_patches_per_block: 2,
    max_mask_patches_per_block: None,
    aspect: (0.3, 1.0 / 0.3),
};

fn options(shards: Arc<ShardSet>) -> Options {
    Options { view_px: 32, mask: MASK, seed: 5, batch_size: 16, workers: 2, ..Options::new(shards) }
}

/// All samples of one step, in the order of the ranks.
#[derive(Clone, Debug, Default, PartialEq)]
struct GlobalBatch {
    pixels: Vec<u8>,
    tokens: Vec<u16>,
    mask: Vec<u8>,
    ids: Vec<SampleId>,
}

/// An order of blocks for sets of two dozen samples.
const BLOCKS: Shuffle = Shuffle::Blocks { block_samples: 4, window_blocks: 3 };

/// The global batches of some steps, as `world` ranks get them that share a global batch of 16.
fn global_batches(
    set: &Arc<ShardSet>,
    world: u32,
    workers: usize,
    steps: std::ops::Range<u64>,
) -> Vec<GlobalBatch> {
    shuffled_batches(Options { workers, ..options(set.clone()) }, world, steps)
}

fn shuffled_batches(options: Options, world: u32, steps: std::ops::Range<u64>) -> Vec<GlobalBatch> {
    let (batch_size, first_step) = (16 / world, steps.start);
    let options = Options { world_size: world, ranks: 0..world, batch_size, first_step, slots: 2, ..options };
    let mut loader = Loader::start(options).unwrap();
    let mut ranks: Vec<_> = (0..world).map(|rank| loader.take_rank(rank)).collect();
    steps.map(|step| global_batch(&mut ranks, step)).collect()
}

fn global_batch(ranks: &mut [RankBatches], step: u64) -> GlobalBatch {
    let mut all = GlobalBatch::default();
    for rank in ranks {
        let batch = rank.next().unwrap();
        assert_eq!(batch.step(), step);
        all.pixels.extend(batch.pixels());
        all.tokens.extend(batch.tokens());
        all.mask.extend(batch.mask());
        all.ids.extend(batch.ids());
    }
    all
}

/// The same batches made by the definition, one sample after the other, without the loader.
fn by_definition(set: &ShardSet, shuffle: Shuffle, steps: std::ops::Range<u64>) -> Vec<GlobalBatch> {
    let spec: ViewSpec = set.spec().view_spec.parse().unwrap();
    let order = Order::shuffled(5, set.len(), set.spec().views, shuffle);
    let (mut buf, mut renderer) = (ReadBuf::new(), Renderer::new());
    let grid = PatchGrid { rows: 4, cols: 4 };
    let mut sample = |position: u64, all: &mut GlobalBatch| {
        let placed = order.at(position);
        let record = set.read(placed.sample, placed.view, &mut buf).unwrap();
        let (width, height, bytes) = (record.width, record.height, record.payload);
        let key = SeedKey { seed: SEED, stream: record.id.0, index: placed.view, purpose: Purpose::View };
        let view = View::draw(&spec, width, height, key);
        let kind = if record.payload_kind == PAYLOAD_RGB { PayloadKind::Rgb } else { PayloadKind::Jpeg };
        let mut pixels = vec![0; 32 * 32 * 3];
        let (payload, mut times) = (Payload { kind, width, height, bytes }, StageTimes::default());
        renderer
            .render_payload(payload, &view, record.grey, 32, Interpolation::Bicubic, &mut pixels, &mut times)
            .unwrap();
        let index = placed.epoch as u32;
        let key = SeedKey { seed: 5, stream: record.id.0, index, purpose: Purpose::Mask };
        let mut mask = vec![0; 16];
        draw_mask(grid, &MASK, key, &mut mask);
        all.pixels.extend(pixels);
        all.tokens.extend(record.tokens);
        all.mask.extend(mask);
        all.ids.push(record.id);
    };
    let mut step = |step: u64| {
        let mut all = GlobalBatch::default();
        (0..16).for_each(|j| sample(step * 16 + j, &mut all));
        all
    };
    steps.map(&mut step).collect()
}

#[test]
fn batches_are_what_the_definition_says_for_any_ranks_and_workers() {
    let set = TestSet::of(23, 3).open();
    for shuffle in [Shuffle::Full, BLOCKS] {
        let expected = by_definition(&set, shuffle, 0..7);
        for world in [1, 2, 4, 8, 16] {
            for workers in 1..=8 {
                let options = Options { shuffle, workers, ..options(set.clone()) };
                let found = shuffled_batches(options, world, 0..7);
                assert!(found == expected, "{world} ranks, {workers} workers, {shuffle}");
            }
        }
    }
}

#[test]
fn a_resumed_run_sees_what_it_would_have_seen_from_any_step() {
    let set = TestSet::of(23, 3).open();
    for shuffle in [Shuffle::Full, BLOCKS] {
        let expected = by_definition(&set, shuffle, 0..10);
        for step in 0..10 {
            let world = [1, 2, 4, 8, 16][step % 5];
            let options = || Options { shuffle, workers: 1 + step % 3, ..options(set.clone()) };
            let found = shuffled_batches(options(), world, step as u64..10);
            assert!(found == expected[step..], "resumed at step {step} with {world} ranks, {shuffle}");
            let far = (1 << 40) + step as u64;
            let expected = by_definition(&set, shuffle, far..far + 1);
            assert!(shuffled_batches(options(), world, far..far + 1) == expected, "step {far}, {shuffle}");
        }
    }
}

/// Shuffle, way of reading and distance of reading ahead: the digests of a rank's batches.
fn digests(set: &TestSet, shuffle: Shuffle, io: Io, read_ahead: u32) -> Vec<u128> {
    let shards = Arc::new(ShardSet::open(set.dir.path(), io).unwrap());
    let mut loader = Loader::start(Options { shuffle, read_ahead, ..options(shards) }).unwrap();
    let mut rank = loader.take_rank(0);
    (0..20).map(|_| rank.next().unwrap().digest()).collect()
}

#[test]
fn digests_tell_batches_and_orders_apart_and_nothing_else() {
    let set = TestSet::of(23, 3);
    let found = digests(&set, Shuffle::Full, Io::Mmap, 64);
    let blocks = digests(&set, BLOCKS, Io::Mmap, 64);
    for (shuffle, expected) in [(Shuffle::Full, &found), (BLOCKS, &blocks)] {
        for (io, read_ahead) in [(Io::Pread, 64), (Io::Mmap, 0), (Io::Pread, 0), (Io::Auto, 1)] {
            assert_eq!(
                &digests(&set, shuffle, io, read_ahead),
                expected,
                "{shuffle}, {io}, {read_ahead} ahead"
            );
        }
    }
    let different: std::collections::BTreeSet<_> = found.iter().chain(&blocks).collect();
    assert_eq!(different.len(), found.len() + blocks.len());
}

#[test]
fn every_sample_comes_exactly_once_per_epoch() {
    let set = TestSet::of(23, 2).open();
    for shuffle in [Shuffle::Full, BLOCKS] {
        every_sample_comes_once(&set, shuffle);
    }
}

fn every_sample_comes_once(set: &Arc<ShardSet>, shuffle: Shuffle) {
    // 23 steps of 16 samples are 16 epochs of 23, none of which ends with a batch but the last.
    let batches = shuffled_batches(Options { shuffle, workers: 3, ..options(set.clone()) }, 2, 0..23);
    let ids: Vec<SampleId> = batches.iter().flat_map(|batch| batch.ids.clone()).collect();
    let mut orders = std::collections::BTreeSet::new();
    for epoch in ids.chunks(23) {
        let mut sorted = epoch.to_vec();
        sorted.sort();
        sorted.dedup();
        assert_eq!(sorted.len(), 23);
        orders.insert(epoch.to_vec());
    }
    assert_eq!(orders.len(), 16, "each epoch has an order of its own");
}

/// Flips one bit of the sample's payload.
fn damage(set: &TestSet, sample: u64) {
    flip(set, sample, |entry| entry.offset + entry.length / 2);
}

/// Flips one bit of a sample's record.
fn flip(set: &TestSet, sample: u64, at: impl Fn(IndexEntry) -> u64) {
    let open = set.open();
    let (shard, record) = open.locate(sample).unwrap();
    let at = at(shard.entry(record).unwrap());
    let file = std::fs::File::options().read(true).write(true).open(shard.path()).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
}

#[test]
fn a_flipped_bit_costs_one_sample_which_the_next_in_order_replaces() {
    let test_set = TestSet::of(23, 3);
    damage(&test_set, 13);
    let set = test_set.open();
    let order = Order::new(5, 23, 3);
    let sound = TestSet::of(23, 3).open();
    let id = |sample| {
        let (shard, record) = sound.locate(sample).unwrap();
        shard.entry(record).unwrap().id
    };
    let expected: Vec<SampleId> = (0..16 * 6)
        .map(|position| match order.at(position) {
            placed if placed.sample == 13 => id(order.epoch(placed.epoch).sample((placed.place + 1) % 23)),
            placed => id(placed.sample),
        })
        .collect();
    let runs: Vec<_> =
        [(1, 1), (2, 3), (16, 2)].map(|(world, workers)| global_batches(&set, world, workers, 0..6)).into();
    assert_eq!(runs[0].iter().flat_map(|batch| batch.ids.clone()).collect::<Vec<_>>(), expected);
    assert!(runs.iter().all(|run| *run == runs[0]), "replacement depends on ranks or workers");
}

#[test]
fn a_flip_anywhere_in_a_record_is_found_and_counted_in_any_order_and_way_of_reading() {
    for (shuffle, io) in [(Shuffle::Full, Io::Mmap), (BLOCKS, Io::Pread)] {
        let test_set = TestSet::of(23, 2);
        // Bytes of a record's magic, its id, its path, its payload, and the frames of views 0 and 1.
        flip(&test_set, 2, |entry| entry.offset);
        flip(&test_set, 6, |entry| entry.offset + 8);
        flip(&test_set, 9, |entry| entry.offset + 74);
        flip(&test_set, 12, |entry| entry.offset + entry.length / 2);
        flip(&test_set, 17, |entry| entry.offset + entry.length - 50);
        flip(&test_set, 20, |entry| entry.offset + entry.length - 10);
        let order = Order::shuffled(5, 23, 2, shuffle);
        // A frame is read with its own view only: view 0 in even epochs, view 1 in odd ones.
        let bad = |sample: u64, epoch: u64| match sample {
            2 | 6 | 9 | 12 => true,
            17 => epoch.is_multiple_of(2),
            20 => !epoch.is_multiple_of(2),
            _ => false,
        };
        let sound = TestSet::of(23, 2).open();
        let id = |sample| sound.read(sample, 0, &mut ReadBuf::new()).unwrap().id;
        let expected: Vec<SampleId> = (0..16 * 6)
            .map(|position| {
                let Placed { epoch, place, .. } = order.at(position);
                let epoch_order = order.epoch(epoch);
                let shown =
                    (place..).map(|place| epoch_order.sample(place % 23)).find(|&sample| !bad(sample, epoch));
                id(shown.unwrap())
            })
            .collect();
        let run = |max_corrupt, workers| {
            let shards = Arc::new(ShardSet::open(test_set.dir.path(), io).unwrap());
            let mut loader =
                Loader::start(Options { shuffle, max_corrupt, workers, ..options(shards) }).unwrap();
            let mut rank = loader.take_rank(0);
            let ids =
                (0..6).map(|_| rank.next().map(|batch| batch.ids().to_vec())).collect::<Result<Vec<_>, _>>();
            loader.stop();
            (ids.map(|ids| ids.concat()), loader.stats().corrupt.by_reason())
        };
        for workers in [1, 4] {
            let (ids, reasons) = run(6, workers);
            assert_eq!(ids.unwrap(), expected, "{shuffle}, {io}");
            assert_eq!(reasons, [("checksum", 5), ("malformed", 1)], "{shuffle}, {io}");
        }
        let error = run(5, 3).0.unwrap_err().to_string();
        assert!(error.starts_with("more corrupt records than the 5 that max_corrupt allows"), "{error}");
    }
}

#[test]
fn a_corrupt_record_is_named_once_and_counted_by_reason() {
    let test_set = TestSet::of(23, 3);
    damage(&test_set, 13);
    let told = Arc::new(std::sync::Mutex::new(Vec::new()));
    let listener = told.clone();
    let on_corrupt = move |record: &crate::CorruptRecord| listener.lock().unwrap().push(record.clone());
    let options = Options { on_corrupt: Some(Arc::new(on_corrupt)), workers: 3, ..options(test_set.open()) };
    let mut loader = Loader::start(options).unwrap();
    let mut rank = loader.take_rank(0);
    // Six epochs, and none of the seventh beyond what the slots hold.
    (0..8).for_each(|_| drop(rank.next().unwrap()));
    loader.stop();
    let corrupt = &loader.stats().corrupt;
    assert_eq!(corrupt.by_reason(), [("checksum", 1)]);
    assert_eq!(corrupt.records(), 1);
    assert!((5..=8).contains(&corrupt.replaced()), "{} replacements", corrupt.replaced());
    let told = told.lock().unwrap();
    assert_eq!(told.as_slice(), corrupt.named());
    assert_eq!((told.len(), told[0].sample, told[0].record), (1, 13, 3));
    assert!(told[0].shard.ends_with("shard-000001.shard"));
    assert_eq!(told[0].path.as_deref().map(SampleId::of_path), told[0].id);
    assert!(told[0].message.contains("checksum"), "{}", told[0].message);
}

#[test]
fn more_corrupt_records_than_allowed_end_the_run_on_every_rank() {
    let test_set = TestSet::of(23, 1);
    for sample in [3, 11, 20] {
        damage(&test_set, sample);
    }
    let run = |max_corrupt| {
        let options = options(test_set.open());
        let options = Options { world_size: 2, ranks: 0..2, batch_size: 4, max_corrupt, ..options };
        let mut loader = Loader::start(options).unwrap();
        let mut ranks = [loader.take_rank(0), loader.take_rank(1)];
        for _ in 0..30 {
            for rank in 0..2 {
                if let Err(error) = ranks[rank].next().map(drop) {
                    let other = ranks[1 - rank].wait_out();
                    return Err((error.to_string(), other.to_string()));
                }
            }
        }
        Ok(())
    };
    assert_eq!(run(3), Ok(()));
    let (one, other) = run(2).unwrap_err();
    assert!(
        one.starts_with(
            "more corrupt records than the 2 that max_corrupt allows; the one too many is record "
        ),
        "{one}"
    );
    assert!(one.contains(".shard (class/") && one.contains("checksum"), "{one}");
    assert_eq!(one, other);
    assert!(run(0).unwrap_err().0.starts_with("more corrupt records than the 0 that"));
}

impl RankBatches {
    /// Takes what is in stock until the error comes.
    fn wait_out(&mut self) -> LoaderError {
        loop {
            if let Err(error) = self.next() {
                return error;
            }
        }
    }
}

#[test]
fn a_payload_that_does_not_decode_is_replaced_too() {
    let good = image("good.png".into(), b"", noise(40, 30, 1));
    let mut bad = image("bad.jpg".into(), b"", noise(40, 30, 2));
    (bad.kind, bad.payload) = (PAYLOAD_JPEG, b"this is no JPEG at all".to_vec());
    let mut test_set = TestSet::new(1, &ViewSpec::default());
    test_set.push([(0, &good), (1, &bad), (2, &good)].into_iter());
    test_set.publish();
    let set = test_set.open();
    let ids: Vec<_> = global_batches(&set, 1, 2, 0..3).into_iter().flat_map(|batch| batch.ids).collect();
    let counts = ids.into_iter().fold(BTreeMap::new(), |mut counts, id| {
        *counts.entry(id).or_insert(0) += 1;
        counts
    });
    assert_eq!(counts.len(), 2);
    let mut loader = Loader::start(options(set)).unwrap();
    loader.take_rank(0).next().unwrap();
    loader.stop();
    assert_eq!(loader.stats().corrupt.by_reason(), [("corrupt", 1)]);
}

#[test]
fn a_set_without_any_sound_record_is_an_error_and_not_a_hang() {
    let test_set = TestSet::of(3, 1);
    (0..3).for_each(|sample| damage(&test_set, sample));
    let mut loader = Loader::start(options(test_set.open())).unwrap();
    let error = loader.take_rank(0).next().map(|_| ()).unwrap_err().to_string();
    assert!(error.starts_with("no record in") && error.contains("beit-shard repair"), "{error}");
}

#[test]
fn a_panic_in_a_worker_reaches_every_rank() {
    let test_set = TestSet::of(23, 1);
    damage(&test_set, 7);
    let on_corrupt = |_: &crate::CorruptRecord| panic!("the listener fell over");
    let options = Options { on_corrupt: Some(Arc::new(on_corrupt)), workers: 4, ..options(test_set.open()) };
    let options = Options { world_size: 3, ranks: 0..3, batch_size: 5, ..options };
    let mut loader = Loader::start(options).unwrap();
    let ranks: Vec<_> = (0..3).map(|rank| loader.take_rank(rank)).collect();
    std::thread::scope(|scope| {
        for mut rank in ranks {
            scope.spawn(move || {
                let error = rank.wait_out();
                assert!(matches!(error, LoaderError::Panicked { .. }), "{error}");
                assert!(error.to_string().contains("the listener fell over"), "{error}");
            });
        }
    });
    finishes(&loader);
}

/// The workers end without being asked again.
fn finishes(loader: &Loader) {
    let started = Instant::now();
    while !loader.workers.iter().all(JoinHandle::is_finished) {
        assert!(started.elapsed() < Duration::from_secs(20), "workers are still running");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn ranks_that_hang_up_end_the_workers() {
    let set = TestSet::of(23, 1).open();
    let options = Options { world_size: 2, ranks: 0..2, batch_size: 8, workers: 3, ..options(set) };
    let mut loader = Loader::start(options).unwrap();
    let (mut first, mut second) = (loader.take_rank(0), loader.take_rank(1));
    first.next().unwrap();
    drop(first);
    // The other goes on as long as it likes.
    (0..10).for_each(|step| assert_eq!(second.next().unwrap().step(), step));
    drop(second);
    finishes(&loader);
}

#[test]
fn a_stop_wakes_ranks_that_wait_and_workers_that_sleep() {
    let set = TestSet::of(23, 1).open();
    // Rank 1's consumer never comes: its slots are full and the workers asleep, except for rank 0.
    let options = Options { world_size: 2, ranks: 0..2, batch_size: 2, ..options(set) };
    let mut loader = Loader::start(options).unwrap();
    let mut rank = loader.take_rank(0);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| rank.wait_out());
        std::thread::sleep(Duration::from_millis(50));
        loader.stop();
        assert!(matches!(waiting.join().unwrap(), LoaderError::Stopped));
    });
    loader.stop();
    assert!(matches!(rank.wait_out(), LoaderError::Stopped), "and so it stays");
}

#[test]
fn a_loader_can_be_dropped_in_any_state() {
    let set = TestSet::of(23, 1).open();
    drop(Loader::start(options(set.clone())).unwrap());
    let mut loader = Loader::start(options(set.clone())).unwrap();
    let mut rank = loader.take_rank(0);
    drop(loader);
    assert!(rank.next().is_err());
    let mut loader = Loader::start(options(set)).unwrap();
    let mut rank = loader.take_rank(0);
    let batch = rank.next().unwrap();
    drop(loader);
    assert_eq!(batch.ids().len(), 16, "a batch in hand stays good");
}

#[test]
fn a_slow_consumer_finds_its_slots_full_and_the_counters_right() {
    let set = TestSet::of(23, 1).open();
    let mut loader = Loader::start(Options { slots: 3, ..options(set) }).unwrap();
    let mut rank = loader.take_rank(0);
    let stats = loader.stats();
    drop(rank.next().unwrap());
    let started = Instant::now();
    while stats.ranks[0].depth() < 3 {
        assert!(started.elapsed() < Duration::from_secs(20), "{stats:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
    let batch = rank.next().unwrap();
    assert_eq!(stats.ranks[0].depth(), 3, "the one in hand counts");
    drop(batch);
    loader.stop();
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    assert_eq!(count(&stats.ranks[0].consumed), 2);
    assert!(count(&stats.images) >= 4 * 16);
    for counter in [
        &stats.bytes,
        &stats.read_ns,
        &stats.entropy_ns,
        &stats.idct_ns,
        &stats.resize_ns,
        &stats.mask_ns,
        &stats.cpu_ns,
    ] {
        assert!(count(counter) > 0, "{stats:?}");
    }
}

#[test]
fn a_consumer_that_is_faster_than_the_workers_waits_and_says_so() {
    let set = TestSet::of(23, 1).open();
    let mut loader = Loader::start(Options { workers: 1, ..options(set) }).unwrap();
    let (mut rank, stats) = (loader.take_rank(0), loader.stats());
    // A busy machine may let the first batches be ready before this thread has looked for them.
    let waited = (0..1000).any(|_| {
        drop(rank.next().unwrap());
        stats.ranks[0].wait_ns.load(Ordering::Relaxed) > 0
    });
    assert!(waited);
}

#[test]
fn local_ranks_of_a_larger_world_get_their_own_part() {
    let set = TestSet::of(23, 3).open();
    let expected = by_definition(&set, Shuffle::Full, 0..4);
    let options = Options { world_size: 4, ranks: 2..4, batch_size: 4, ..options(set) };
    let mut loader = Loader::start(options).unwrap();
    for rank in [3, 2] {
        let mut batches = loader.take_rank(rank);
        assert_eq!(batches.rank(), rank);
        for global in &expected[..2] {
            let batch = batches.next().unwrap();
            let from = rank as usize * 4;
            assert_eq!(batch.ids(), &global.ids[from..from + 4]);
            assert_eq!(batch.pixels(), &global.pixels[from * 3072..(from + 4) * 3072]);
        }
    }
}

#[test]
fn the_loader_measures_itself() {
    let set = TestSet::of(23, 1).open();
    let report = crate::measure(options(set), 2, 0.3).unwrap();
    assert!(report.images >= 16 && report.images_per_s_per_core > 1.0, "{report:?}");
    assert!(report.stages_us.named().iter().all(|(_, us)| *us > 0.0), "{report:?}");
    assert!(report.checksum_us > 0.0 && report.handoff_share() < 0.5, "{report:?}");
}

#[track_caller]
fn check(set: &TestSet, change: impl FnOnce(&mut Options), expect: &str) {
    let mut options = options(set.open());
    change(&mut options);
    let error = Loader::start(options).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains(expect), "{error}");
}

#[test]
fn options_that_contradict_each_other_are_refused_in_words() {
    let set = TestSet::of(1, 1);
    let grid = |side| PatchGrid { rows: side, cols: side };
    check(&set, |o| o.grid = grid(14), "14x14 patches but 4x4 tokens; each patch needs one");
    check(&set, |o| o.view_px = 30, "a view of 30 px cannot be cut into 4x4 patches");
    check(&set, |o| o.workers = 0, "workers is 0; it must be at least 1");
    check(&set, |o| o.batch_size = 0, "batch_size is 0");
    check(&set, |o| o.slots = 0, "slots is 0");
    check(&set, |o| o.world_size = 0, "world_size is 0");
    check(&set, |o| o.view_px = 0, "view_px is 0");
    check(&set, |o| o.ranks = 1..2, "local ranks 1..2 are not some of the 1 ranks");
    check(&set, |o| o.ranks = 0..0, "local ranks 0..0");
    check(&set, |o| o.first_step = u64::MAX, "beyond what 64 bits can count");
    let blocks = |block_samples, window_blocks| Shuffle::Blocks { block_samples, window_blocks };
    check(&set, |o| o.shuffle = blocks(0, 1), "shuffle_block_samples is 0");
    check(&set, |o| o.shuffle = blocks(1, 0), "shuffle_window_blocks is 0");
    check(&set, |o| o.shuffle = blocks(1 << 60, 4), "in windows of 4 are more than can be counted");
    check(&set, |o| o.mask.num_mask_patches = 17, "17 patches are to be hidden, but a 4x4 grid has 16");
    check(
        &set,
        |o| (o.batch_size, o.view_px) = (u32::MAX, 1 << 20),
        "no memory for 1 ranks with 3 batch slots",
    );
    let mut empty = TestSet::new(1, &ViewSpec::default());
    empty.push(std::iter::empty());
    empty.publish();
    check(&empty, |_| {}, "holds no samples; build it from at least one image");
    let mut foreign = TestSet::new(1, &ViewSpec::default());
    foreign.spec.view_spec = "view-9 of the future".into();
    foreign.push([(0, &image("good.png".into(), b"", noise(40, 30, 1)))].into_iter());
    foreign.publish();
    check(&foreign, |_| {}, "\"view-9 of the future\" does not start with");
}

#[test]
#[should_panic(expected = "the batches of rank 0 have been taken already")]
fn a_rank_has_one_consumer() {
    let mut loader = Loader::start(options(TestSet::of(1, 1).open())).unwrap();
    let _one = loader.take_rank(0);
    let _two = loader.take_rank(0);
}

#[test]
#[should_panic(expected = "rank 1 is not one of this loader's ranks 0..1")]
fn a_rank_of_another_node_cannot_be_taken() {
    let mut loader = Loader::start(options(TestSet::of(1, 1).open())).unwrap();
    loader.take_rank(1);
}

#[test]
fn a_grown_set_joins_in_the_middle_of_a_batch_for_any_ranks_and_workers() {
    let mut test_set = TestSet::of(22, 2);
    let before = global_batches(&test_set.open(), 1, 1, 0..2);
    let images = crate::testing::images();
    test_set.push((22..30).map(|number| (number, &images[number % images.len()])));
    test_set.publish();
    let set = test_set.open();
    // 22 samples: the first epoch ends 6 samples into the batch of step 1.
    let generations = vec![Generation::first(22), Generation { position: 22, epoch: 1, samples: 30 }];
    let grown = |world, workers, steps| {
        let options = Options { workers, generations: generations.clone(), ..options(set.clone()) };
        shuffled_batches(options, world, steps)
    };
    let one = grown(1, 1, 0..6);
    assert_eq!(one[0], before[0]);
    assert_eq!(one[1].ids[..6], before[1].ids[..6]);
    let ids: Vec<SampleId> = one.iter().flat_map(|batch| batch.ids.iter().copied()).collect();
    for epoch in [22..52, 52..82] {
        let mut found = ids[epoch].to_vec();
        found.sort();
        found.dedup();
        assert_eq!(found.len(), 30, "every sample exactly once per epoch");
    }
    for (world, workers) in [(1, 3), (2, 2), (8, 4)] {
        assert!(grown(world, workers, 0..6) == one, "{world} ranks, {workers} workers");
        assert!(grown(world, workers, 1..4) == one[1..4], "from step 1 on, {world} ranks, {workers} workers");
    }
}

#[test]
fn generations_that_cannot_be_are_refused() {
    let set = TestSet::of(22, 1).open();
    let first = Generation::first(10);
    for generations in [
        vec![Generation::first(23)],
        vec![Generation::first(0)],
        vec![first, Generation { position: 15, epoch: 1, samples: 22 }],
        vec![first, Generation { position: 10, epoch: 2, samples: 22 }],
        vec![first, Generation { position: u64::MAX, epoch: u64::MAX, samples: 22 }],
    ] {
        let refused = Loader::start(Options { generations, ..options(set.clone()) }).unwrap_err();
        assert!(refused.to_string().contains("the set that it began with"), "{refused}");
    }
}

#[test]
fn counters_go_on_in_a_second_loader() {
    let set = TestSet::of(22, 1).open();
    let mut loader = Loader::start(options(set.clone())).unwrap();
    let mut batches = loader.take_rank(0);
    drop(batches.next().unwrap());
    drop(batches);
    let stats = loader.stats();
    drop(loader);
    let seen = stats.images.load(Ordering::Relaxed);
    assert!(seen >= 16, "{seen}");
    let options = Options { first_step: 1, stats: Some(stats.clone()), ..options(set) };
    let mut loader = Loader::start(options).unwrap();
    let mut batches = loader.take_rank(0);
    drop(batches.next().unwrap());
    drop((batches, loader));
    assert!(stats.images.load(Ordering::Relaxed) >= seen + 16);
    let Some(rank) = stats.ranks.first() else { panic!("no rank") };
    assert!(rank.depth() <= 3, "what the first loader had ready is forgotten: {}", rank.depth());
}

#[test]
fn fresh_views_are_the_stored_ones_first_and_go_on_after_them() {
    let set = TestSet::of(11, 3).open();
    let views = u64::from(set.spec().views);
    let samples = set.len();
    let options = Options { batch_size: 1, slots: 4, ..options(set.clone()) };
    let mut fresh = Loader::start(Options { fresh_views: true, ..options.clone() }).unwrap();
    let mut stored = Loader::start(options).unwrap();
    let (mut fresh, mut stored) = (fresh.take_rank(0), stored.take_rank(0));
    let spec: ViewSpec = set.spec().view_spec.parse().unwrap();
    let (mut buf, mut renderer) = (ReadBuf::new(), Renderer::new());
    let order = Order::shuffled(5, samples, set.spec().views, Shuffle::Full);
    let mut differ = 0;
    for position in 0..samples * (views + 1) {
        let (fresh, stored) = (fresh.next().unwrap(), stored.next().unwrap());
        assert_eq!(
            (fresh.ids(), fresh.mask(), stored.token_pixels()),
            (stored.ids(), stored.mask(), &[][..])
        );
        match position < samples * views {
            true => assert!(fresh.pixels() == stored.pixels(), "position {position}"),
            false => differ += u64::from(fresh.pixels() != stored.pixels()),
        }
        // The token view shows what the patch view shows.
        let placed = order.at(position);
        let record = set.read(placed.sample, placed.view, &mut buf).unwrap();
        let key = SeedKey::view(SEED, record.id.0, placed.epoch as u32);
        let view = View::draw(&spec, record.width, record.height, key);
        let grey = if placed.epoch < views { record.grey } else { continue };
        let kind = if record.payload_kind == PAYLOAD_RGB { PayloadKind::Rgb } else { PayloadKind::Jpeg };
        let payload = Payload { kind, width: record.width, height: record.height, bytes: record.payload };
        let mut expected = vec![0; (spec.token_px * spec.token_px * 3) as usize];
        let mut times = StageTimes::default();
        let (px, filter) = (spec.token_px, spec.token_interpolation);
        renderer.render_payload(payload, &view, grey, px, filter, &mut expected, &mut times).unwrap();
        assert!(fresh.token_pixels() == expected, "position {position}");
    }
    assert!(differ > samples / 2, "{differ} of {samples} views of epoch {views} differ from the stored ones");
}
