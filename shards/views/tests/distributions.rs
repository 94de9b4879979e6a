//! Crops, flips, jitters and masks are drawn from the reference's distributions: two-sample tests on fixed seeds against
//! what `make_distributions.py`, written from the reference's rules on another generator, has drawn. Each bound lets one
//! true sample in some ten thousand fail; the controls show that a slightly wrong rule does.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;

use beit_views::{JitterStep, MaskSpec, PatchGrid, Purpose, SeedKey, View, ViewSpec, draw_mask};

const DRAWS: u32 = 16_000;
const SIZES: [(u32, u32); 5] = [(500, 375), (375, 500), (64, 48), (1000, 200), (90, 400)];
const SEED: u64 = 2106_08254;

enum Golden {
    /// Sorted draws, thinned out.
    Sample(Vec<f32>),
    Counts(Vec<u32>),
}

fn golden() -> BTreeMap<String, Golden> {
    let text = include_str!("data/distributions.txt");
    let bytes = include_bytes!("data/distributions.bin");
    let line = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        let numbers: Vec<u32> = words[2..].iter().map(|word| word.parse().unwrap()).collect();
        let values = match words[0] {
            "sample" => {
                let (kept, offset) = (numbers[1] as usize, numbers[2] as usize);
                let floats = bytes[offset..][..4 * kept].as_chunks::<4>().0;
                Golden::Sample(floats.iter().map(|&float| f32::from_le_bytes(float)).collect())
            }
            _ => Golden::Counts(numbers),
        };
        (words[1].to_owned(), values)
    };
    text.lines().map(line).collect()
}

/// Kolmogorov and Smirnov's distance between our draws and the golden ones.
fn distance(golden: &BTreeMap<String, Golden>, name: &str, mut ours: Vec<f32>) -> f64 {
    let Golden::Sample(theirs) = &golden[name] else { panic!("{name} is no sample") };
    ours.sort_by(f32::total_cmp);
    let share = |sorted: &[f32], most: f32| {
        sorted.partition_point(|&value| value <= most) as f64 / sorted.len() as f64
    };
    let gaps = theirs.iter().map(|&value| (share(&ours, value) - share(theirs, value)).abs());
    gaps.fold(0.0, f64::max)
}

/// What 16,000 draws on either side exceed once in ten thousand times, and one step of the thinned-out golden sample.
const MOST_DISTANCE: f64 = 0.0249 + 0.001;

/// Whether two histograms of equally many draws agree: chi-square over bins of at least 20.
fn agree(ours: &[u32], theirs: &[u32]) -> bool {
    assert_eq!((ours.len(), sum(ours)), (theirs.len(), sum(theirs)));
    let (mut squares, mut bins, mut pending) = (0.0, 0, (0, 0));
    for (&a, &b) in ours.iter().zip(theirs) {
        pending = (pending.0 + a, pending.1 + b);
        if pending.0 + pending.1 >= 20 {
            let (a, b) = (f64::from(pending.0), f64::from(pending.1));
            squares += (a - b).powi(2) / (a + b);
            bins += 1;
            pending = (0, 0);
        }
    }
    let freedom = f64::from(bins - 1);
    squares < freedom + 4.0 * (2.0 * freedom).sqrt() + 7.0
}

fn sum(counts: &[u32]) -> u32 {
    counts.iter().sum()
}

fn counts<'a>(golden: &'a BTreeMap<String, Golden>, name: &str) -> &'a [u32] {
    match &golden[name] {
        Golden::Counts(counts) => counts,
        Golden::Sample(_) => panic!("{name} is a sample"),
    }
}

fn views(spec: &ViewSpec, (width, height): (u32, u32)) -> Vec<View> {
    (0..DRAWS).map(|k| View::draw(spec, width, height, SeedKey::view(SEED, 7, k))).collect()
}

/// The largest distance over area, aspect, left and top of an image size's crops.
fn crop_distance(golden: &BTreeMap<String, Golden>, spec: &ViewSpec, size: (u32, u32)) -> f64 {
    let views = views(spec, size);
    let (width, height) = (f64::from(size.0), f64::from(size.1));
    type Feature = fn([f64; 4], f64, f64) -> f64;
    let features: [(&str, Feature); 4] = [
        ("area", |[_, _, w, h], width, height| w * h / (width * height)),
        ("aspect", |[_, _, w, h], _, _| w / h),
        ("left", |[left, ..], width, _| left / width),
        ("top", |[_, top, ..], _, height| top / height),
    ];
    let distances = features.map(|(name, feature)| {
        let of = |view: &View| {
            let crop = view.crop;
            feature([crop.left, crop.top, crop.width, crop.height].map(f64::from), width, height) as f32
        };
        distance(golden, &format!("{name}/{}x{}", size.0, size.1), views.iter().map(of).collect())
    });
    distances.into_iter().fold(0.0, f64::max)
}

#[test]
fn crops_are_drawn_as_the_reference_draws_them() {
    let golden = golden();
    for size in SIZES {
        let found = crop_distance(&golden, &ViewSpec::default(), size);
        assert!(found < MOST_DISTANCE, "{size:?}: {found}");
    }
    let narrow = ViewSpec { crop_scale: (0.12, 1.0), ..ViewSpec::default() };
    assert!(crop_distance(&golden, &narrow, (500, 375)) > MOST_DISTANCE, "other areas must show");
    let wide = ViewSpec { crop_ratio: (0.72, 1.0 / 0.72), ..ViewSpec::default() };
    assert!(crop_distance(&golden, &wide, (500, 375)) > MOST_DISTANCE, "other aspects must show");
}

#[test]
fn jitters_and_flips_are_drawn_as_the_reference_draws_them() {
    let golden = golden();
    let drawn = views(&ViewSpec::default(), (500, 375));
    type Factor = fn(&View) -> f32;
    let factors: [Factor; 3] = [|v| v.jitter.brightness, |v| v.jitter.contrast, |v| v.jitter.saturation];
    for factor in factors {
        let found = distance(&golden, "jitter", drawn.iter().map(factor).collect());
        assert!(found < MOST_DISTANCE, "{found}");
    }
    let orders = drawn.iter().fold(BTreeMap::new(), |mut orders, view| {
        let letter = |step| match step {
            JitterStep::Brightness => 'b',
            JitterStep::Contrast => 'c',
            JitterStep::Saturation => 's',
        };
        *orders.entry(view.jitter.order.map(letter)).or_insert(0) += 1;
        orders
    });
    let orders: Vec<u32> = orders.into_values().collect();
    assert!(agree(&orders, counts(&golden, "order/bcs,bsc,cbs,csb,sbc,scb")), "{orders:?}");
    let flips = drawn.iter().filter(|view| view.flip).count() as u32;
    assert!(agree(&[DRAWS - flips, flips], counts(&golden, "flip")), "{flips}");

    let weak = views(&ViewSpec { color_jitter: 0.37, ..ViewSpec::default() }, (500, 375));
    let found = distance(&golden, "jitter", weak.iter().map(|v| v.jitter.brightness).collect());
    assert!(found > MOST_DISTANCE, "a weaker jitter must show: {found}");
    assert!(!agree(&[8500, 7500], counts(&golden, "flip")), "too few flips must show");
}

/// How many masks hide 0, 1, … patches, and how often each patch is hidden.
fn masks(grid: PatchGrid, spec: &MaskSpec) -> (Vec<u32>, Vec<u32>) {
    let (mut hidden, mut cells) = (vec![0; spec.num_mask_patches as usize + 1], vec![0; grid.len()]);
    let mut mask = vec![0; grid.len()];
    for index in 0..DRAWS {
        let key = SeedKey { seed: SEED, stream: 11, index, purpose: Purpose::Mask };
        draw_mask(grid, spec, key, &mut mask);
        hidden[mask.iter().map(|&cell| usize::from(cell)).sum::<usize>()] += 1;
        cells.iter_mut().zip(&mask).for_each(|(count, &cell)| *count += u32::from(cell));
    }
    (hidden, cells)
}

/// The largest deviation of any patch's frequency, in standard deviations.
fn worst_cell(ours: &[u32], theirs: &[u32]) -> f64 {
    let deviation = |(&a, &b): (&u32, &u32)| {
        let (a, b, n) = (f64::from(a), f64::from(b), f64::from(DRAWS));
        (a - b).abs() / ((a + b) * (1.0 - (a + b) / (2.0 * n))).sqrt()
    };
    ours.iter().zip(theirs).map(deviation).fold(0.0, f64::max)
}

#[test]
fn masks_are_drawn_as_the_reference_draws_them() {
    let golden = golden();
    let specs = [("14x14", 14, 75, 16, None), ("8x8", 8, 26, 4, None), ("24x24", 24, 220, 16, Some(60))];
    for (name, side, target, least, most) in specs {
        let grid = PatchGrid { rows: side, cols: side };
        let spec = MaskSpec {
            num_mask_patches: target,
            min_mask_patches_per_block: least,
            max_mask_patches_per_block: most,
            ..MaskSpec::default()
        };
        let (hidden, cells) = masks(grid, &spec);
        assert!(agree(&hidden, counts(&golden, &format!("hidden/{name}"))), "{name}: {hidden:?}");
        let worst = worst_cell(&cells, counts(&golden, &format!("cells/{name}")));
        assert!(worst < 5.0, "{name}: a patch is off by {worst} standard deviations");
    }
    let grid = PatchGrid { rows: 14, cols: 14 };
    let (hidden, cells) = masks(grid, &MaskSpec { aspect: (0.4, 2.5), ..MaskSpec::default() });
    let shows = !agree(&hidden, counts(&golden, "hidden/14x14"))
        || worst_cell(&cells, counts(&golden, "cells/14x14")) > 5.0;
    assert!(shows, "other aspects of blocks must show");
}
