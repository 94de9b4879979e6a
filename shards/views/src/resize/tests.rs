//! The weights, against a plain transcript of Pillow's `precompute_coeffs` and `normalize_coeffs_8bpc`.

use super::{PRECISION_BITS, Plan};
use crate::view::Interpolation;

/// Start and weights of each output sample.
fn pillows(input: u32, output: u32, interpolation: Interpolation) -> Vec<(u32, Vec<i32>)> {
    let sinc =
        |x: f64| if x == 0.0 { 1.0 } else { (x * std::f64::consts::PI).sin() / (x * std::f64::consts::PI) };
    let filter = |x: f64| match interpolation {
        Interpolation::Bilinear if x.abs() < 1.0 => 1.0 - x.abs(),
        Interpolation::Bicubic if x.abs() < 1.0 => {
            ((-0.5 + 2.0) * x.abs() - (-0.5 + 3.0)) * x.abs() * x.abs() + 1.0
        }
        Interpolation::Bicubic if x.abs() < 2.0 => (((x.abs() - 5.0) * x.abs() + 8.0) * x.abs() - 4.0) * -0.5,
        Interpolation::Lanczos if (-3.0..3.0).contains(&x) => sinc(x) * sinc(x / 3.0),
        _ => 0.0,
    };
    let radius = match interpolation {
        Interpolation::Bilinear => 1.0,
        Interpolation::Bicubic => 2.0,
        Interpolation::Lanczos => 3.0,
    };
    let scale = f64::from(input) / f64::from(output);
    let wide = if scale < 1.0 { 1.0 } else { scale };
    let support = radius * wide;
    let weights = |index: u32| {
        let center = (f64::from(index) + 0.5) * scale;
        let start = if center - support + 0.5 < 0.0 { 0 } else { (center - support + 0.5) as u32 };
        let end = input.min((center + support + 0.5) as u32);
        let raw: Vec<f64> = (0..end - start)
            .map(|x| filter((f64::from(x) + f64::from(start) - center + 0.5) * (1.0 / wide)))
            .collect();
        let mut total = 0.0;
        raw.iter().for_each(|weight| total += weight);
        let whole = |weight: f64| {
            let weight = if total != 0.0 { weight / total } else { weight };
            let scaled = weight * f64::from(1u32 << PRECISION_BITS);
            if weight < 0.0 { (scaled - 0.5) as i32 } else { (scaled + 0.5) as i32 }
        };
        (start, raw.into_iter().map(whole).collect())
    };
    (0..output).map(weights).collect()
}

#[test]
fn weights_are_pillows_up_and_down() {
    let mut plan = Plan::default();
    for interpolation in [Interpolation::Bilinear, Interpolation::Bicubic, Interpolation::Lanczos] {
        let sides =
            (1..500).chain([777, 1024, 4001]).flat_map(|input| [(input, 224), (input, 112), (input, 7)]);
        for (input, output) in sides {
            plan.set(input, output, interpolation, false);
            let expected = pillows(input, output, interpolation);
            let rows = plan.weights.chunks_exact(plan.taps);
            for (index, ((start, expected), found)) in expected.iter().zip(rows).enumerate() {
                let name = format!("{interpolation}, {input} to {output}, sample {index}");
                assert_eq!(
                    (plan.starts[index], plan.counts[index] as usize),
                    (*start, expected.len()),
                    "{name}"
                );
                let (these, past) = found.split_at(expected.len());
                assert!(these == expected && past.iter().all(|weight| *weight == 0), "{name}: {found:?}");
            }
        }
    }
}
