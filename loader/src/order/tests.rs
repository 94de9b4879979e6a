use super::*;
use proptest::prelude::*;

const IMAGENET_22K: u64 = 14_197_122;
const TEN_BILLION: u64 = 10_000_000_000;

/// Every place of the epoch, marked in a bit map.
fn check_every_sample_once(samples: u64, epoch: u64) {
    let order = Order::new(7, samples, 1).epoch(epoch);
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
fn an_epoch_of_imagenet_22k_holds_every_sample_exactly_once() {
    let order = Order::new(1, IMAGENET_22K, 16).epoch(3);
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
    for samples in [TEN_BILLION, (1 << 40) - 1, 1 << 40] {
        let order = Order::new(1, samples, 16).epoch(149);
        let stride = samples / 100_003;
        for place in (0..100_000).map(|i| i * stride).chain(samples - 1000..samples) {
            let sample = order.sample(place);
            assert!(sample < samples);
            assert_eq!(order.place(sample), place);
        }
    }
}

#[test]
fn an_order_is_a_few_dozen_bytes_at_any_size() {
    assert!(size_of::<Order>() <= 32 && size_of::<EpochOrder>() <= 128);
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
}
