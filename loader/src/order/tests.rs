use super::*;
use proptest::prelude::*;

const IMAGENET_22K: u64 = 14_197_122;
const TEN_BILLION: u64 = 10_000_000_000;

/// Every place of the epoch, marked in a bit map.
fn check_every_sample_once(samples: u64, epoch: u64) {
    check_permutation(&Order::new(7, samples, 1).epoch(epoch), samples);
}

#[track_caller]
fn check_permutation(order: &EpochOrder, samples: u64) {
    let mut seen = vec![false; samples as usize];
    for place in 0..samples {
        let sample = order.sample(place);
        assert!(sample < samples);
        assert!(!std::mem::replace(&mut seen[sample as usize], true), "sample {sample} of {samples} twice");
        assert_eq!(order.place(sample), place);
    }
}

#[test]
fn an_epoch_holds_every_sample_exactly_once() {
    for samples in (1..=130).chain([255, 256, 257, 1000, 4095, 4096, 65_537, 300_007]) {
        check_every_sample_once(samples, 0);
        check_every_sample_once(samples, 1 << 33);
    }
}

#[test]
fn a_set_that_grows_shows_its_new_samples_from_the_next_epoch_on() {
    let generations = [
        Generation::first(5),
        Generation { position: 15, epoch: 3, samples: 9 },
        Generation { position: 33, epoch: 5, samples: 11 },
    ];
    for shuffle in [Shuffle::Full, blocks(2, 2)] {
        let before = Order::grown(7, &generations[..1], 2, shuffle);
        let grown = Order::grown(7, &generations[..2], 2, shuffle);
        let again = Order::grown(7, &generations, 2, shuffle);
        for position in 0..15 {
            assert_eq!(grown.at(position), before.at(position), "what was before stays");
        }
        for position in 15..33 {
            assert_eq!(again.at(position), grown.at(position), "what was before stays");
        }
        assert_eq!((grown.place(14), grown.place(15), grown.place(32)), ((2, 4), (3, 0), (4, 8)));
        assert_eq!((again.place(32), again.place(33), again.place(44)), ((4, 8), (5, 0), (6, 0)));
        assert_eq!((grown.samples(2), grown.samples(3), again.samples(4), again.samples(5)), (5, 9, 9, 11));
        for (order, epoch, samples) in [(grown, 2, 5), (grown, 3, 9), (again, 4, 9), (again, 5, 11)] {
            check_permutation(&order.epoch(epoch), samples);
        }
        let mut kept = Epochs::new(again);
        for position in (15..60).chain(20..40) {
            assert_eq!(kept.at(position), again.at(position), "{position}");
        }
    }
}

fn blocks(block_samples: u64, window_blocks: u64) -> Shuffle {
    Shuffle::Blocks { block_samples, window_blocks }
}

#[test]
fn an_epoch_of_blocks_holds_every_sample_exactly_once() {
    for samples in (1..=70).chain([255, 256, 257, 1000, 4095, 65_537]) {
        for (block, window) in
            [(1, 1), (1, 5), (3, 1), (3, 2), (4, 4), (7, 3), (64, 2), (300, 9), (5, 1 << 40)]
        {
            for epoch in 0..3 {
                let order = Order::shuffled(7, samples, 1, blocks(block, window)).epoch(epoch);
                check_permutation(&order, samples);
            }
        }
    }
}

#[test]
fn a_window_of_blocks_holds_whole_blocks_and_is_stored_in_few_stretches() {
    for (samples, block, window) in
        [(10_007, 16, 8), (10_000, 16, 8), (130, 64, 3), (977, 100, 1), (31, 64, 2)]
    {
        for epoch in 0..10 {
            let order = Order::shuffled(3, samples, 1, blocks(block, window)).epoch(epoch);
            let (mut number, mut place) = (0, 0);
            while let Some(found) = order.window(number) {
                assert_eq!((found.number, found.start), (number, place));
                let stored: Vec<u64> = (0..found.len).map(|index| order.stored(found, index)).collect();
                // Apart from the jumps between blocks, what is stored is one sample after the other.
                let jumps = stored.windows(2).filter(|pair| pair[1] != pair[0] + 1).count() as u64;
                assert!(jumps < window, "{jumps} jumps");
                let starts: std::collections::BTreeSet<u64> =
                    stored.iter().map(|sample| sample / block).collect();
                assert!(starts.len() as u64 <= window);
                for &sample in &stored {
                    // Whole blocks: the neighbours of a sample within its block are in the window too.
                    let neighbour = (sample / block * block + (sample + 1) % block).min(samples - 1);
                    assert!(sample + 1 >= samples || stored.contains(&neighbour));
                }
                let mut shown: Vec<u64> =
                    (found.start..found.start + found.len).map(|place| order.sample(place)).collect();
                assert!(
                    (found.start..found.start + found.len).all(|place| order.window_at(place) == Some(found))
                );
                assert!(found.len < 100 || shown != stored, "a window is shuffled");
                shown.sort_unstable();
                let mut stored = stored;
                stored.sort_unstable();
                assert_eq!(shown, stored);
                (number, place) = (number + 1, place + found.len);
            }
            assert_eq!(place, samples);
        }
    }
    assert_eq!(Order::new(3, 100, 1).epoch(0).window_at(5), None);
}

#[test]
fn an_epoch_of_imagenet_22k_holds_every_sample_exactly_once() {
    for shuffle in [Shuffle::Full, Shuffle::BLOCKS] {
        check_imagenet_22k(shuffle);
    }
}

fn check_imagenet_22k(shuffle: Shuffle) {
    let order = Order::shuffled(1, IMAGENET_22K, 16, shuffle).epoch(3);
    let mut seen = vec![0u64; (IMAGENET_22K as usize).div_ceil(64)];
    for place in 0..IMAGENET_22K {
        let sample = order.sample(place);
        let bit = 1 << (sample % 64);
        assert_eq!(seen[(sample / 64) as usize] & bit, 0, "sample {sample} comes twice");
        seen[(sample / 64) as usize] |= bit;
    }
    assert_eq!(seen.iter().map(|word| u64::from(word.count_ones())).sum::<u64>(), IMAGENET_22K);
}

#[test]
fn at_ten_billion_samples_the_inverse_finds_every_place_again() {
    for (samples, shuffle) in [TEN_BILLION, (1 << 40) - 1, 1 << 40].into_iter().flat_map(both) {
        let order = Order::shuffled(1, samples, 16, shuffle).epoch(149);
        let stride = samples / 100_003;
        for place in (0..100_000).map(|i| i * stride).chain(samples - 1000..samples) {
            let sample = order.sample(place);
            assert!(sample < samples);
            assert_eq!(order.place(sample), place);
        }
    }
}

fn both(samples: u64) -> [(u64, Shuffle); 2] {
    [(samples, Shuffle::Full), (samples, Shuffle::BLOCKS)]
}

#[test]
fn an_order_is_a_few_hundred_bytes_at_any_size() {
    // It owns no memory (`Copy`); that looking up allocates nothing is counted in `tests/memory.rs`.
    fn plain<T: Copy>() -> usize {
        size_of::<T>()
    }
    assert!(plain::<Order>() <= 96 && plain::<EpochOrder>() <= 256);
}

#[test]
fn a_lookup_is_as_much_work_at_ten_billion_samples_as_at_ten_thousand() {
    for samples in [10_000, IMAGENET_22K, TEN_BILLION] {
        let order = Permutation::new(samples, keys(1, 0, Use::Samples));
        let stride = (samples / 100_003).max(1);
        let runs = (0..samples).step_by(stride as usize).map(|place| order.walk(place).1);
        let (lookups, total, most) = runs.fold((0u64, 0u64, 0), |(lookups, total, most), runs| {
            (lookups + 1, total + u64::from(runs), most.max(runs))
        });
        // Eight rounds a run. At most one row of the table, a hundredth of 10,000 cells, is empty.
        assert!(total as f64 <= 1.02 * lookups as f64, "{total} runs for {lookups} of {samples}");
        assert!(most <= 4, "{most} runs for one of {samples}");
    }
}

/// `cargo nextest run --release -p beit-loader what_blocks_give_up --no-capture` prints the table of `docs/benchmarks.md`.
#[test]
fn what_blocks_give_up_at_imagenet_22k() {
    let narrow = blocks(128, 16);
    for (shuffle, correlation) in [(Shuffle::Full, 0.0), (Shuffle::BLOCKS, 1.0 / 128.0), (narrow, 1.0 / 16.0)]
    {
        let found = ShuffleQuality::of(&Order::shuffled(0, IMAGENET_22K, 16, shuffle), 21_841);
        let ShuffleQuality { displacement, neighbour_correlation, batch_drift, .. } = found;
        let same_class_run = found.same_class_run.unwrap().mean;
        eprintln!(
            "| {shuffle} | {displacement:.3} | {neighbour_correlation:.4} | {same_class_run:.4} | {batch_drift:.2} |"
        );
        assert!((neighbour_correlation - correlation).abs() < 0.015, "{found:?}");
        assert!(same_class_run < 1.1 && (displacement - 1.0).abs() < 0.1, "{found:?}");
    }
}

#[test]
fn quality_tells_a_perfect_shuffle_from_blocks_and_from_none() {
    let quality = |shuffle| ShuffleQuality::of(&Order::shuffled(2, 1_000_000, 1, shuffle), 1000);
    let full = quality(Shuffle::Full);
    // 262,144 places: the correlation of chance has a deviation of 0.002, the distance one of 0.0014.
    assert!((full.displacement - 1.0).abs() < 0.01, "{full:?}");
    assert!(full.neighbour_correlation.abs() < 0.01, "{full:?}");
    let chance = full.same_class_run.unwrap().by_chance;
    assert!((full.same_class_run.unwrap().mean - chance).abs() < 0.001, "{full:?}");
    assert!((full.batch_drift - 1.0).abs() < 0.1, "{full:?}");
    // Two neighbours are of one of 64 blocks once in 64 times: correlated by 1/64, and then of one class.
    let some = quality(blocks(128, 64));
    assert!((some.displacement - 1.0).abs() < 0.05, "{some:?}");
    assert!((some.neighbour_correlation - 1.0 / 64.0).abs() < 0.01, "{some:?}");
    assert!((chance + 0.01..1.03).contains(&some.same_class_run.unwrap().mean), "{some:?}");
    assert!(some.batch_drift > 1.5, "{some:?}");
    // One block at a time in a window of one: blocks of 4096 in random order, shuffled within.
    let few = quality(blocks(4096, 1));
    assert!(few.neighbour_correlation > 0.99 && few.same_class_run.unwrap().mean > 1.2, "{few:?}");
    // All the set in one block is a perfect shuffle again.
    let whole = quality(blocks(1_000_000, 1));
    assert!(whole.neighbour_correlation.abs() < 0.01 && (whole.batch_drift - 1.0).abs() < 0.1, "{whole:?}");
    // A small set in a window of its own, as the doctor may meet it.
    let small = ShuffleQuality::of(&Order::shuffled(0, 600, 4, Shuffle::BLOCKS), 600);
    assert!(small.neighbour_correlation.abs() < 0.01 && (small.batch_drift - 1.0).abs() < 0.1, "{small:?}");
    // No shuffle at all cannot be asked for, but for sets of one.
    let one = ShuffleQuality::of(&Order::new(0, 1, 1), 5);
    assert!(one.batch_drift == 1.0 && one.displacement == 0.0, "{one:?}");
    // A set of one class has nothing to tell of runs.
    assert_eq!(ShuffleQuality::of(&Order::new(0, 100, 1), 1).same_class_run, None);
}

#[test]
fn positions_run_on_over_the_ends_of_epochs_and_views_take_turns() {
    let order = Order::new(5, 10, 3);
    for position in 0..100 {
        let placed = order.at(position);
        assert_eq!((placed.epoch, placed.place), (position / 10, position % 10));
        assert_eq!(u64::from(placed.view), placed.epoch % 3);
        assert_eq!(placed.sample, order.epoch(placed.epoch).sample(placed.place));
    }
}

#[test]
fn epochs_and_seeds_have_orders_of_their_own() {
    let samples = |seed, epoch| -> Vec<u64> {
        let order = Order::new(seed, 1000, 1).epoch(epoch);
        (0..1000).map(|place| order.sample(place)).collect()
    };
    assert_eq!(samples(1, 0), samples(1, 0));
    assert_ne!(samples(1, 0), samples(1, 1));
    assert_ne!(samples(1, 0), samples(2, 0));
}

#[test]
fn neighbours_in_the_set_end_up_far_apart() {
    let samples = 100_000;
    let order = Order::new(11, samples, 1).epoch(0);
    let near = (1..samples).filter(|&i| order.sample(i).abs_diff(order.sample(i - 1)) < 1000).count();
    // Chance puts 2 % of neighbours within 1 % of the set; the spread of that count is about 45.
    assert!((1750..2250).contains(&near), "{near} of {samples} neighbours are near each other");
}

#[test]
fn every_sample_comes_early_or_late_as_chance_has_it() {
    // Sixteen bins of places, over epochs: χ² with 15 degrees of freedom is above 50 once in 80,000 tables.
    for sample in [0, 1, 4999, 9999] {
        let mut bins = [0u32; 16];
        for epoch in 0..3200 {
            bins[(Order::new(3, 10_000, 1).epoch(epoch).place(sample) * 16 / 10_000) as usize] += 1;
        }
        let chi2: f64 = bins.iter().map(|&count| (f64::from(count) - 200.0).powi(2) / 200.0).sum();
        assert!(chi2 < 50.0, "sample {sample}: {bins:?}");
    }
}

#[test]
fn all_orders_of_four_samples_occur_about_equally_often() {
    let mut counts = std::collections::BTreeMap::new();
    for epoch in 0..24_000 {
        let order = Order::new(9, 4, 1).epoch(epoch);
        *counts.entry([0, 1, 2, 3].map(|place| order.sample(place))).or_insert(0u32) += 1;
    }
    // Eight rounds of shifts on a 2 × 2 table reach what a coin for each row and column can reach.
    assert!(counts.len() >= 8, "{counts:?}");
    assert!(counts.values().all(|&count| count > 500), "{counts:?}");
}

proptest! {
    #[test]
    fn sample_and_place_are_inverse(seed: u64, epoch: u64, samples in 1u64..1 << 40, place: u64) {
        let order = Order::new(seed, samples, 1).epoch(epoch);
        let place = place % samples;
        prop_assert!(order.sample(place) < samples);
        prop_assert_eq!(order.place(order.sample(place)), place);
    }

    #[test]
    fn sample_and_place_are_inverse_in_blocks(
        seed: u64, epoch: u64, samples in 1u64..1 << 40, place: u64,
        block in 1u64..1 << 20, window in 1u64..1 << 20,
    ) {
        let order = Order::shuffled(seed, samples, 1, blocks(block, window)).epoch(epoch);
        let place = place % samples;
        prop_assert!(order.sample(place) < samples);
        prop_assert_eq!(order.place(order.sample(place)), place);
    }
}
