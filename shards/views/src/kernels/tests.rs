use super::*;
use crate::random::{Draws, Purpose, SeedKey};
use crate::view::{Interpolation, JitterStep};

fn draws(stream: u64) -> Draws {
    SeedKey { seed: 3, stream, index: 0, purpose: Purpose::View }.draws()
}

/// Bytes with runs of extremes, where rounding and clipping go wrong first.
fn bytes(count: usize, draws: &mut Draws) -> Vec<u8> {
    let byte = |draws: &mut Draws| match draws.below(4) {
        0 => 0,
        1 => 255,
        _ => draws.u32() as u8,
    };
    (0..count).map(|_| byte(draws)).collect()
}

/// How many cases are tried: a few under Miri, which interprets each instruction, so that of `all` widths some are odd.
fn cases(all: u64) -> u64 {
    if cfg!(miri) { all.div_ceil(200) } else { all }
}

/// The longest row: under Miri still more than two vectors.
fn longest(all: u32) -> u32 {
    if cfg!(miri) { all.min(70) } else { all }
}

const STEPS: [JitterStep; 3] = [JitterStep::Brightness, JitterStep::Contrast, JitterStep::Saturation];

fn tone(draws: &mut Draws) -> Tone {
    let mut steps = STEPS;
    steps.swap(2, draws.below(3) as usize);
    steps.swap(1, draws.below(2) as usize);
    let factor = |draws: &mut Draws| match draws.below(8) {
        0 => 0.0,
        1 => 1.0,
        2 => 0.5,
        _ => draws.uniform(0.0, 2.0) as f32,
    };
    Tone::of(steps.map(|step| (step, factor(draws))), draws.u32() as u8)
}

#[test]
fn every_level_jitters_like_plain_rust() {
    for case in 0..cases(300) {
        let mut draws = draws(case);
        let columns = 1 + draws.below(longest(190)) as usize;
        let (tone, row) = (tone(&mut draws), bytes(3 * columns, &mut draws));
        let stride = padded(columns);
        let run = |level: Level| {
            let mut planes = vec![7; 3 * stride];
            level.split(&row, &mut planes);
            level.tone(&tone, columns, &mut planes);
            planes.chunks(stride).flat_map(|plane| &plane[..columns]).copied().collect::<Vec<u8>>()
        };
        let expected = run(Level::Plain);
        for level in Level::available() {
            assert_eq!(run(level), expected, "{level:?}, {columns} pixels, {tone:?}");
        }
    }
}

#[test]
fn every_level_sums_lumas_like_plain_rust() {
    for case in 0..cases(200) {
        let mut draws = draws(500 + case);
        let columns = draws.below(longest(200)) as usize;
        let (tone, row) = (tone(&mut draws), bytes(3 * columns, &mut draws));
        let expected = Level::Plain.luma_sum(&tone, &row);
        for level in Level::available() {
            assert_eq!(level.luma_sum(&tone, &row), expected, "{level:?}, {columns} pixels, {tone:?}");
        }
    }
}

#[test]
fn every_level_resizes_like_plain_rust() {
    for case in 0..cases(400) {
        let mut draws = draws(1000 + case);
        let input = 1 + draws.below(longest(if case % 4 == 0 { 1500 } else { 300 }));
        let output = 1 + draws.below(longest(if case % 3 == 0 { 10 } else { 240 }));
        let kernel =
            [Interpolation::Bilinear, Interpolation::Bicubic, Interpolation::Lanczos][case as usize % 3];
        let mirrored = draws.coin();
        let row = bytes(3 * padded(input as usize), &mut draws);
        let rows = bytes(input as usize * 64, &mut draws);
        let run = |level: Level| {
            let mut plan = Plan::default();
            level.plan_across(&mut plan, input, output, kernel, mirrored);
            let stride = padded(output as usize);
            let mut across = vec![7; 3 * stride];
            level.across(&plan, &row, &mut across, stride);
            across.chunks_exact_mut(stride).for_each(|channel| channel[output as usize..].fill(7));
            level.plan_down(&mut plan, input, output, kernel);
            let mut down = vec![7; 64 * output as usize];
            for (index, out) in down.chunks_exact_mut(64).enumerate() {
                level.down(&plan, index, &rows, out);
            }
            (across, down)
        };
        let expected = run(Level::Plain);
        for level in Level::available() {
            let found = run(level);
            assert!(found == expected, "{level:?}: {kernel} {input} to {output}, mirrored: {mirrored}");
        }
    }
}

#[test]
fn every_level_interleaves_like_plain_rust() {
    for columns in (1..100).step_by(if cfg!(miri) { 33 } else { 1 }) {
        let mut draws = draws(columns as u64);
        let stride = padded(columns);
        let planes = bytes(3 * stride, &mut draws);
        let run = |level: Level| {
            let mut out = vec![7; 3 * columns];
            level.interleave(&planes, stride, &mut out);
            out
        };
        for level in Level::available() {
            assert_eq!(run(level), run(Level::Plain), "{level:?}, {columns} pixels");
        }
    }
}

#[test]
fn a_mirrored_plan_resizes_the_mirrored_row() {
    for case in 0..cases(60) {
        let mut draws = draws(2000 + case);
        let (input, output) = (1 + draws.below(longest(300)), 1 + draws.below(longest(100)));
        let row = bytes(input as usize, &mut draws);
        let reversed: Vec<u8> = row.iter().rev().copied().collect();
        let run = |row: &[u8], mirrored| {
            let mut plan = Plan::default();
            plan.set(input, output, Interpolation::Bicubic, mirrored);
            let mut out = vec![0; output as usize];
            resize::across(&plan, row, &mut out);
            out
        };
        assert_eq!(run(&row, true), run(&reversed, false), "{input} to {output}");
    }
}
