use proptest::prelude::*;

use super::*;
use crate::image::{Limits, RgbImage, decode};
use crate::kernels::padded;
use crate::payload::{PayloadKind, lay_out, pack_payload, splice};
use crate::random::{Draws, Purpose, SeedKey};
use crate::turbo::{Pixels, Turbo};

/// Samplings by libjpeg-turbo's numbers: 4:4:4, 4:2:2, 4:2:0, grey, 4:4:0, 4:1:1, 4:4:1; and RGB.
const SAMPLINGS: [(u32, bool); 8] =
    [(0, false), (1, false), (2, false), (3, false), (4, false), (5, false), (6, false), (0, true)];

fn draws(stream: u64) -> Draws {
    SeedKey { seed: 11, stream, index: 0, purpose: Purpose::View }.draws()
}

/// Gradients, edges and noise; `rough` gives all shades at random.
fn picture(width: u32, height: u32, rough: bool, stream: u64) -> RgbImage {
    let mut draws = draws(stream);
    let mut pixels = Vec::new();
    for y in 0..height {
        for x in 0..width {
            for channel in 0..3 {
                let noise = draws.u32() as u8;
                let edge = if (x / 5 + y / 7 + channel) % 3 == 0 { 190 } else { 20 };
                pixels.push(if rough { noise } else { edge + (x + 2 * y) as u8 % 40 + noise % 8 });
            }
        }
    }
    RgbImage { width, height, pixels }
}

fn encode(image: &RgbImage, (sampling, rgb): (u32, bool), quality: u8) -> Vec<u8> {
    let mut encoder = Turbo::sampler(quality, sampling, rgb).unwrap();
    encoder.encode(&image.pixels, (image.width, image.height)).unwrap()
}

/// The crop's pixels as the region decoder makes them; nothing if it leaves them to libjpeg-turbo.
fn by_region(
    level: Level,
    decoder: &mut RegionDecoder,
    payload: &Payload<'_>,
    crop: PixelRect,
) -> Result<Option<Vec<u8>>, DecodeError> {
    if decoder.decode(level, payload, crop)?.is_none() {
        return Ok(None);
    }
    let columns = crop.width as usize;
    let (mut planes, mut pixels) =
        (vec![0; 3 * padded(columns)], vec![0; 3 * columns * crop.height as usize]);
    for (y, row) in (crop.top..).zip(pixels.chunks_exact_mut(3 * columns)) {
        decoder.row(level, crop, y, &mut planes);
        level.interleave(&planes, padded(columns), row);
    }
    Ok(Some(pixels))
}

/// A rectangle of interleaved rows of `width` pixels.
fn cut(pixels: &[u8], width: u32, crop: PixelRect) -> Vec<u8> {
    let row = |y: u32| {
        let start = 3 * (y as usize * width as usize + crop.left as usize);
        &pixels[start..start + 3 * crop.width as usize]
    };
    (crop.top..crop.top + crop.height).flat_map(row).copied().collect()
}

/// Each level must make of each crop what libjpeg-turbo makes of the whole.
#[track_caller]
fn check(what: &str, jpeg: &[u8], crops: &[PixelRect]) {
    let image = decode(jpeg, &Limits::default()).unwrap();
    let RgbImage { width, height, ref pixels } = image;
    let bytes = lay_out(jpeg).unwrap();
    let payload = Payload { kind: PayloadKind::Jpeg, width, height, bytes: &bytes };
    for level in Level::available() {
        let mut decoder = RegionDecoder::default();
        for &crop in crops {
            let found = by_region(level, &mut decoder, &payload, crop)
                .unwrap()
                .unwrap_or_else(|| panic!("{what}: left out"));
            let expected = cut(pixels, width, crop);
            let differing = found.iter().zip(&expected).filter(|(a, b)| a != b).count();
            assert!(
                found == expected,
                "{what}, {level:?}, {crop:?}: {differing} of {} differ",
                expected.len()
            );
        }
    }
}

/// The whole, each edge, each corner, single pixels, and the middle.
fn crops(width: u32, height: u32) -> Vec<PixelRect> {
    let spans = |side: u32| {
        let part = side.div_ceil(3);
        [(0, side), (0, part), (side - part, part), (side / 2, 1), (side / 4, (side / 2).max(1))]
    };
    let across = spans(width);
    spans(height)
        .into_iter()
        .flat_map(|(top, height)| across.map(|(left, width)| PixelRect { left, top, width, height }))
        .collect()
}

#[test]
#[cfg_attr(miri, ignore = "libjpeg-turbo is foreign code")]
fn crops_of_every_sampling_and_size_are_libjpeg_turbos() {
    let sides = [(1, 1), (2, 3), (5, 4), (8, 8), (17, 16), (33, 9), (71, 50), (130, 67), (64, 131)];
    for (number, sampling) in SAMPLINGS.into_iter().enumerate() {
        for (width, height) in sides {
            for quality in [5, 75, 100] {
                let image = picture(width, height, quality == 100, u64::from(width * height));
                let jpeg = encode(&image, sampling, quality);
                check(
                    &format!("sampling {number}, {width}x{height}, quality {quality}"),
                    &jpeg,
                    &crops(width, height),
                );
            }
        }
    }
}

/// Sets every step of every quantization table.
fn requantize(jpeg: &mut [u8], step: u8) {
    let mut at = 2;
    while let Some(found) = crate::markers::segment(jpeg, at) {
        if found.marker == crate::markers::code::SOS {
            return;
        }
        if found.marker == crate::markers::code::DQT {
            jpeg[found.start..found.end].chunks_mut(65).for_each(|table| table[1..].fill(step));
        }
        at = found.end;
    }
}

#[test]
#[cfg_attr(miri, ignore = "libjpeg-turbo is foreign code")]
fn coefficients_beyond_all_measure_are_clipped_and_wrapped_as_libjpeg_turbo_does() {
    for (number, sampling) in SAMPLINGS.into_iter().enumerate() {
        for (step, rough) in [(9, false), (40, true), (120, false), (255, true), (255, false)] {
            let mut jpeg = encode(&picture(45, 38, rough, u64::from(step)), sampling, 100);
            requantize(&mut jpeg, step);
            check(&format!("sampling {number}, steps of {step}"), &jpeg, &crops(45, 38));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    #[cfg_attr(miri, ignore = "libjpeg-turbo is foreign code")]
    fn any_crop_is_libjpeg_turbos(
        sampling in 0..SAMPLINGS.len(),
        (width, height) in (1u32..150, 1u32..90),
        quality in 1u8..=100,
        corners in prop::array::uniform4(0.0f64..1.0),
    ) {
        let place = |at: f64, side: u32| ((at * f64::from(side)) as u32).min(side - 1);
        let span = |a: u32, b: u32| (a.min(b), a.abs_diff(b) + 1);
        let (left, wide) = span(place(corners[0], width), place(corners[1], width));
        let (top, high) = span(place(corners[2], height), place(corners[3], height));
        let jpeg = encode(&picture(width, height, quality % 3 == 0, u64::from(quality)), SAMPLINGS[sampling], quality);
        check("a random image", &jpeg, &[PixelRect { left, top, width: wide, height: high }]);
    }
}

#[test]
#[cfg_attr(miri, ignore = "libjpeg-turbo is foreign code")]
fn what_is_packed_as_jpeg_has_been_decoded_by_region_too() {
    let image = picture(90, 61, false, 3);
    let jpeg = encode(&image, (2, false), 80);
    let image = decode(&jpeg, &Limits::default()).unwrap();
    assert_eq!(pack_payload(&jpeg, &image).unwrap().0, PayloadKind::Jpeg);
    // One level more or less in one pixel, and neither decoder shows the image any more.
    let mut other = image.clone();
    other.pixels[7000] ^= 1;
    assert_eq!(pack_payload(&jpeg, &other).unwrap().0, PayloadKind::Rgb);
    assert!(!crate::payload::shows_by_region(&lay_out(&jpeg).unwrap(), &other));
}

/// What libjpeg-turbo shows of a crop, if it has nothing to complain of.
fn by_libjpeg(payload: &Payload<'_>, crop: PixelRect) -> Option<Vec<u8>> {
    let mut jpeg = Vec::new();
    let place = splice(payload, crop, &mut jpeg).ok()?;
    let mut pixels = vec![0; 3 * place.width as usize * place.height as usize];
    let mut turbo = Turbo::decoder(0).unwrap();
    turbo.decode(&jpeg, (place.width, place.height), Pixels::Rgb, &mut pixels).ok()?;
    let crop = PixelRect { left: crop.left - place.left, top: crop.top - place.top, ..crop };
    Some(cut(&pixels, place.width, crop))
}

#[test]
#[cfg_attr(miri, ignore = "libjpeg-turbo is foreign code")]
fn what_both_decoders_take_of_spoilt_payloads_they_show_alike() {
    let (mut alike, mut refused, mut left) = (0, 0, 0);
    let (level, mut decoder) = (Level::detect(), RegionDecoder::default());
    for (number, sampling) in SAMPLINGS.into_iter().enumerate() {
        let (width, height) = (70, 52);
        let bytes = lay_out(&encode(&picture(width, height, false, 5), sampling, 90)).unwrap();
        let crop = PixelRect { left: 9, top: 11, width: 40, height: 30 };
        let mut draws = draws(900 + number as u64);
        for case in 0..1500 {
            let mut spoilt = bytes.clone();
            for _ in 0..1 + draws.below(3) {
                let reach = if draws.coin() { 700.min(bytes.len()) } else { bytes.len() } as u32;
                let at = draws.below(reach) as usize;
                match draws.below(3) {
                    0 => spoilt[at] = draws.u32() as u8,
                    _ => spoilt[at] ^= 1 << draws.below(8),
                }
            }
            if draws.below(40) == 0 {
                spoilt.truncate(draws.below(bytes.len() as u32) as usize);
            }
            let payload = Payload { kind: PayloadKind::Jpeg, width, height, bytes: &spoilt };
            let expected = by_libjpeg(&payload, crop);
            match by_region(level, &mut decoder, &payload, crop) {
                Ok(Some(found)) => match expected {
                    Some(expected) => {
                        assert!(found == expected, "sampling {number}, case {case}: they differ");
                        alike += 1;
                    }
                    None => left += 1,
                },
                Ok(None) => left += 1,
                Err(_) => refused += 1,
            }
        }
    }
    assert!(
        alike > 2000 && refused > 2000,
        "{alike} alike, {refused} refused, {left} left: spoil more, or less"
    );
}

/// The fuzzer's inputs, without libjpeg-turbo, so that Miri can look at every access: see `fuzz/fuzz_targets/payload.rs`.
#[test]
fn committed_payloads_are_decoded_or_refused_alike_by_every_level() {
    let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/payload");
    let mut files: Vec<_> = std::fs::read_dir(corpus).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    if cfg!(miri) {
        files.retain(|file| ["small-420", "small-444"].iter().any(|name| file.ends_with(name)));
    }
    let mut shown = 0;
    for file in files {
        let input = std::fs::read(&file).unwrap();
        let [width, height, _, bytes @ ..] = input.as_slice() else { continue };
        let (width, height) = (u32::from(*width) + 1, u32::from(*height) + 1);
        let part = |side: u32| (side / 3, side.div_ceil(2));
        let ((left, columns), (top, rows)) = (part(width), part(height));
        let whole = PixelRect { left: 0, top: 0, width, height };
        for crop in [whole, PixelRect { left, top, width: columns, height: rows }] {
            // As it is, and with its end missing.
            for bytes in [bytes, &bytes[..bytes.len() * 4 / 5]] {
                let payload = Payload { kind: PayloadKind::Jpeg, width, height, bytes };
                let made = |level| by_region(level, &mut RegionDecoder::default(), &payload, crop).ok();
                let plain = made(Level::Plain);
                for level in Level::available() {
                    assert!(made(level) == plain, "{}, {level:?}, {crop:?}", file.display());
                }
                shown += usize::from(plain.flatten().is_some());
            }
        }
    }
    assert!(shown >= if cfg!(miri) { 2 } else { 10 }, "only {shown} were shown");
}
