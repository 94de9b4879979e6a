use super::{Schedule, ScheduleError, warmup_length};
use crate::golden::Golden;

/// Compares a whole run, bit for bit.
#[track_caller]
fn check(run: &str, peak: f64, end: f64, warmup: u64, total: u64) {
    let golden = Golden::open("beit-variants/schedules.safetensors");
    let expect: Vec<f64> = Vec::try_from(golden.get(run)).unwrap();
    let schedule = Schedule::new(peak, end, warmup, total).unwrap();
    let found: Vec<f64> = (0..total).map(|step| schedule.at(step)).collect();
    assert_eq!(found, expect);
}

#[test]
fn whole_runs_equal_numpys_bit_for_bit() {
    check("usual", 1.5e-3, 1e-5, 40, 300);
    check("no_warmup", 5e-4, 1e-5, 0, 37);
    check("warmup_of_one", 1.5e-3, 1e-5, 1, 20);
    check("warmup_of_two", 1.5e-3, 1e-5, 2, 20);
    check("warmup_only", 2e-3, 1e-6, 17, 17);
    check("rising_decay", 0.05, 0.2, 0, 101);
    check("constant_decay", 0.05, 0.05, 0, 50);
    check("single_step", 1e-3, 1e-5, 0, 1);
}

/// Compares a run too long for a golden file: `tests/parity/schedules.py` prints these digests of its values' bits.
#[track_caller]
fn check_digest(run: &str, peak: f64, end: f64, warmup: u64, total: u64, expect: u64) {
    let schedule = Schedule::new(peak, end, warmup, total).unwrap();
    let sum = |sum: u64, step: u64| sum.wrapping_add(schedule.at(step).to_bits().wrapping_mul(2 * step + 1));
    let found = (0..total).fold(0, sum);
    assert_eq!(found, expect, "{run}: some value of {total} differs");
}

#[test]
fn published_runs_equal_the_formulas_bit_for_bit() {
    check_digest("base 22k lr", 0.0015, 1e-05, 10_000, 1_039_800, 0x2fcf_9f7f_57a2_70bd);
    check_digest("large 22k weight decay", 0.05, 0.05, 0, 1_039_800, 0xc400_0064_b16f_ae80);
    check_digest("base 1k lr", 0.0015, 1e-05, 6250, 500_000, 0xd7c4_cf6f_5e00_a1e7);
    check_digest("rising weight decay", 0.04, 0.4, 0, 1_039_800, 0x2cf8_5817_7493_11b1);
}

#[test]
fn the_anchors_of_the_800_epoch_recipe_hold() {
    let lr = Schedule::learning_rate(1.5e-3, 1e-5, 10 * 625, 800 * 625).unwrap();
    let near = |step, expect: f64| {
        let found = lr.at(step);
        assert!((found / expect - 1.0).abs() < 2e-6, "step {step}: {found:e} against {expect:e}");
    };
    assert_eq!(lr.at(0), 0.0);
    near(1, 2.40038e-7);
    assert_eq!((lr.at(6249), lr.at(6250)), (1.5e-3, 1.5e-3));
    near(250_000, 7.698123e-4);
    assert!((lr.at(499_999) - 1.000_000_001_51e-5).abs() < 1e-16);
    assert!(lr.at(499_999) > 1e-5, "min_lr is never reached");
}

#[test]
fn weight_decay_without_an_end_is_constant() {
    let decay = Schedule::weight_decay(0.05, None, 1000).unwrap();
    assert!((0..1000).all(|step| decay.at(step) == 0.05));
}

#[test]
fn past_the_end_the_last_value_stays() {
    let lr = Schedule::learning_rate(1e-3, 1e-5, 2, 10).unwrap();
    assert_eq!(lr.at(10), lr.at(9));
    assert_eq!(lr.at(u64::MAX), lr.at(9));
}

#[test]
fn warmup_steps_override_epochs_also_when_there_are_none() {
    assert_eq!(warmup_length(5, -1, 100), 500);
    assert_eq!(warmup_length(5, 0, 100), 500);
    assert_eq!(warmup_length(5, 30, 100), 30);
    assert_eq!(warmup_length(0, 30, 100), 30);
    assert_eq!(warmup_length(0, -1, 100), 0);
}

#[test]
fn a_warmup_longer_than_the_run_is_refused_in_words() {
    let error = Schedule::learning_rate(1e-3, 1e-5, 11, 10).unwrap_err();
    assert_eq!(error, ScheduleError::WarmupTooLong { warmup: 11, total: 10 });
    let words = error.to_string();
    assert!(words.contains("the warm-up takes 11 steps but the run has only 10"), "{words}");
    assert_eq!(Schedule::learning_rate(1e-3, 1e-5, 0, 0).unwrap_err(), ScheduleError::Empty);
}
