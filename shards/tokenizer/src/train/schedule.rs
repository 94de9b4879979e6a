//! Learning rate and temperature, as pure functions of the step.

use std::f64::consts::PI;

/// Half a cosine from `from` to `to` while `progress` goes from 0 to 1, constant outside.
fn cosine(from: f64, to: f64, progress: f64) -> f64 {
    to + (from - to) * 0.5 * (1.0 + (PI * progress.clamp(0.0, 1.0)).cos())
}

/// Linear warm-up to `peak`, then half a cosine to `floor · peak`.
pub(super) fn learning_rate(step: u64, steps: u64, warmup: u64, peak: f64, floor: f64) -> f64 {
    if step < warmup {
        return peak * (step + 1) as f64 / warmup as f64;
    }
    let rest = steps.saturating_sub(warmup).max(1);
    cosine(peak, floor * peak, (step - warmup) as f64 / rest as f64)
}

/// Temperature of the Gumbel-softmax: half a cosine from 1 to `last` over `share` of the run, then constant.
pub(super) fn temperature(step: u64, steps: u64, share: f64, last: f64) -> f64 {
    cosine(1.0, last, step as f64 / (share * steps as f64).max(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_warms_up_peaks_and_falls_to_its_floor() {
        let at = |step| learning_rate(step, 2028, 100, 3e-3, 0.02);
        assert_eq!(at(0), 3e-5);
        assert_eq!(at(99), 3e-3);
        assert_eq!(at(100), 3e-3);
        assert!((at(2028) - 6e-5).abs() < 1e-12);
        assert!((100..2027).all(|step| at(step + 1) < at(step)));
    }

    #[test]
    fn the_temperature_stays_at_its_end_after_half_of_the_run() {
        let at = |step| temperature(step, 1000, 0.5, 1.0 / 16.0);
        assert_eq!(at(0), 1.0);
        assert_eq!(at(500), 0.0625);
        assert_eq!(at(999), 0.0625);
        assert!((at(250) - 0.53125).abs() < 1e-12);
    }
}
