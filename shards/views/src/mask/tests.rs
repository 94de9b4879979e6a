use super::*;
use crate::random::Purpose;
use proptest::prelude::*;

fn key(stream: u64) -> SeedKey {
    SeedKey { seed: 20_210_615, stream, index: 0, purpose: Purpose::Mask }
}

/// Share of masks for each number of hidden patches, and how often each patch is hidden.
fn survey(grid: PatchGrid, spec: &MaskSpec, draws: u64) -> (Vec<f64>, Vec<f64>) {
    let mut counts = vec![0.0; grid.len() + 1];
    let mut places = vec![0.0; grid.len()];
    let mut mask = vec![0; grid.len()];
    for stream in 0..draws {
        draw_mask(grid, spec, key(stream), &mut mask);
        counts[mask.iter().filter(|&&flag| flag == 1).count()] += 1.0 / draws as f64;
        for (place, &flag) in places.iter_mut().zip(&mask) {
            *place += f64::from(flag) / draws as f64;
        }
    }
    (counts, places)
}

#[track_caller]
fn near(what: &str, found: f64, expected: f64, margin: f64) {
    assert!((found - expected).abs() < margin, "{what}: {found:.4}, measured on the reference: {expected}");
}

#[test]
fn masks_of_75_in_196_are_distributed_as_the_references() {
    let grid = PatchGrid { rows: 14, cols: 14 };
    let (counts, places) = survey(grid, &MaskSpec::default(), 60_000);
    let mean: f64 = counts.iter().enumerate().map(|(n, share)| n as f64 * share).sum();
    let sd =
        counts.iter().enumerate().map(|(n, share)| (n as f64 - mean).powi(2) * share).sum::<f64>().sqrt();
    near("mean", mean, 74.47, 0.02);
    near("sd", sd, 0.98, 0.03);
    // Two samples of 60,000: four standard errors of a share of 2/3 are 0.011.
    near("P(75)", counts[75], 0.666, 0.011);
    near("P(74)", counts[74], 0.232, 0.010);
    near("P(73)", counts[73], 0.049, 0.005);
    near("P(72)", counts[72], 0.035, 0.0045);
    near("P(71 or fewer)", counts[..72].iter().sum(), 0.017, 0.003);
    assert_eq!(counts[76..].iter().sum::<f64>(), 0.0);
    near("corner", places[0], 0.042, 0.005);
    near("middle of an edge", places[7], 0.19, 0.01);
    near("centre", places[7 * 14 + 7], 0.716, 0.011);
}

#[test]
fn a_small_grid_gets_the_masks_of_the_cifar_recipe() {
    let grid = PatchGrid { rows: 8, cols: 8 };
    let spec = MaskSpec { num_mask_patches: 26, min_mask_patches_per_block: 4, ..MaskSpec::default() };
    let (counts, _) = survey(grid, &spec, 20_000);
    let mean: f64 = counts.iter().enumerate().map(|(n, share)| n as f64 * share).sum();
    // The reference's generator in Python, 20,000 draws: 23: 1, 24: 23, 25: 844, 26: 19,132.
    near("mean", mean, 25.955, 0.006);
    near("P(26)", counts[26], 0.9566, 0.006);
    assert_eq!(counts[27..].iter().sum::<f64>(), 0.0);
}

#[test]
fn a_mask_is_a_function_of_its_key() {
    let grid = PatchGrid { rows: 14, cols: 14 };
    let draw = |key| {
        let mut mask = vec![9; 196];
        draw_mask(grid, &MaskSpec::default(), key, &mut mask);
        mask
    };
    assert_eq!(draw(key(1)), draw(key(1)));
    assert_ne!(draw(key(1)), draw(key(2)));
    assert_ne!(draw(key(1)), draw(SeedKey { index: 1, ..key(1) }));
}

#[test]
fn contradictory_specs_are_named() {
    let grid = PatchGrid { rows: 8, cols: 8 };
    let check = |spec: MaskSpec, words: &str| {
        let message = spec.check(grid).unwrap_err().to_string();
        assert!(message.contains(words), "{message}");
    };
    check(MaskSpec::default(), "75 patches are to be hidden, but a 8x8 grid has 64");
    let fits = MaskSpec { num_mask_patches: 26, min_mask_patches_per_block: 4, ..MaskSpec::default() };
    assert_eq!(fits.check(grid), Ok(()));
    check(MaskSpec { aspect: (2.0, 1.0), ..fits }, "2 to 1");
    check(MaskSpec { max_mask_patches_per_block: Some(3), ..fits }, "raise max_mask_patches_per_block");
    let row = PatchGrid { rows: 1, cols: 64 };
    assert!(fits.check(row).unwrap_err().to_string().contains("at least 2x2"));
}

#[test]
fn only_whole_patches_tile_a_view() {
    assert_eq!(PatchGrid::tiling(224, 16), Some(PatchGrid { rows: 14, cols: 14 }));
    assert_eq!(PatchGrid::tiling(225, 16), None);
    assert_eq!(PatchGrid::tiling(0, 16), None);
    assert_eq!(PatchGrid::tiling(8, 0), None);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn any_grid_and_target_give_a_mask_of_at_most_the_target(
        rows in 1u32..40, cols in 1u32..40, target in 0u32..2000, min in 0u32..100,
        max in proptest::option::of(0u32..100), stream: u64,
    ) {
        let grid = PatchGrid { rows, cols };
        let spec = MaskSpec {
            num_mask_patches: target, min_mask_patches_per_block: min,
            max_mask_patches_per_block: max, ..MaskSpec::default()
        };
        let mut mask = vec![7; grid.len()];
        draw_mask(grid, &spec, key(stream), &mut mask);
        prop_assert!(mask.iter().all(|&flag| flag <= 1));
        prop_assert!(mask.iter().filter(|&&flag| flag == 1).count() <= target as usize);
    }
}
