//! Bytes lie: whatever is done to images and payloads, nothing panics and nothing is read or written out of place.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::path::Path;

use beit_views::{
    DecodeError, Draws, Interpolation, Limits, Payload, PayloadKind, Purpose, Renderer, SeedKey, StageTimes,
    View, ViewSpec, decode, pack_payload,
};

fn data() -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let mut files: Vec<(String, Vec<u8>)> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_stem().is_some_and(|stem| stem != "golden" && stem != "distributions"))
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read(&path).unwrap()))
        .collect();
    files.sort();
    assert!(files.len() > 30, "the golden images are missing");
    files
}

fn key(stream: u64, purpose: Purpose) -> SeedKey {
    SeedKey { seed: 9, stream, index: 0, purpose }
}

/// Flips bits, sets bytes, cuts, doubles or drops stretches.
fn spoil(bytes: &[u8], draws: &mut Draws) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..1 + draws.below(4) {
        let len = bytes.len() as u32;
        if len < 2 {
            break;
        }
        // Headers are short and matter most.
        let reach = if draws.coin() { len.min(700) } else { len };
        let at = draws.below(reach) as usize;
        match draws.below(6) {
            0 | 1 => bytes[at] ^= 1 << draws.below(8),
            2 => bytes[at] = draws.u32() as u8,
            3 => bytes[at] = [0, 0xFF, 0xD9, 0xD0][draws.below(4) as usize],
            4 => bytes.truncate(at),
            _ => drop(bytes.drain(at..(at + 1 + draws.below(20) as usize).min(len as usize))),
        }
    }
    bytes
}

#[test]
fn spoilt_images_are_decoded_or_refused_but_never_panic() {
    let reasons = ["truncated", "not_an_image", "unsupported", "too_large", "too_small", "corrupt"];
    let (mut good, mut bad) = (0, 0);
    for (number, (name, bytes)) in data().iter().enumerate() {
        let mut draws = key(number as u64, Purpose::Order).draws();
        for case in 0..150 {
            let spoilt = spoil(bytes, &mut draws);
            match decode(&spoilt, &Limits { max_pixels: 1 << 20, ..Limits::default() }) {
                Ok(image) => {
                    good += 1;
                    let (kind, packed) = pack_payload(&spoilt, &image).unwrap();
                    let payload = Payload { kind, width: image.width, height: image.height, bytes: &packed };
                    let view =
                        View::draw(&ViewSpec::default(), image.width, image.height, key(case, Purpose::View));
                    let (mut one, mut other) = (vec![0; 16 * 16 * 3], vec![1; 16 * 16 * 3]);
                    let mut renderer = Renderer::new();
                    renderer.render_image(&image, &view, 99, 16, Interpolation::Bicubic, &mut one);
                    let mut times = StageTimes::default();
                    renderer
                        .render_payload(
                            payload,
                            &view,
                            99,
                            16,
                            Interpolation::Bicubic,
                            &mut other,
                            &mut times,
                        )
                        .unwrap();
                    assert_eq!(one, other, "{name}, case {case}: the payload shows something else");
                }
                Err(error) => {
                    bad += 1;
                    assert!(reasons.contains(&error.reason()), "{name}, case {case}: {error}");
                }
            }
        }
    }
    assert!(good > 500 && bad > 500, "{good} decoded, {bad} refused: spoil more, or less");
}

#[test]
fn spoilt_payloads_are_rendered_or_refused_but_never_panic() {
    let mut renderer = Renderer::new();
    let mut times = StageTimes::default();
    let (mut good, mut bad) = (0, 0);
    for (number, (name, source)) in data().iter().enumerate() {
        let image = decode(source, &Limits::default()).unwrap();
        let (kind, packed) = pack_payload(source, &image).unwrap();
        let mut draws = key(number as u64, Purpose::Batch).draws();
        for case in 0..150 {
            let spoilt = spoil(&packed, &mut draws);
            let view = View::draw(&ViewSpec::default(), image.width, image.height, key(case, Purpose::View));
            let payload = Payload { kind, width: image.width, height: image.height, bytes: &spoilt };
            let mut out = vec![0; 16 * 16 * 3];
            match renderer.render_payload(
                payload,
                &view,
                99,
                16,
                Interpolation::Bicubic,
                &mut out,
                &mut times,
            ) {
                Ok(()) => good += 1,
                Err(DecodeError::Corrupt { .. }) => bad += 1,
                Err(error) => panic!("{name}, case {case}: {error}"),
            }
        }
    }
    assert!(good > 500 && bad > 500, "{good} rendered, {bad} refused: spoil more, or less");
}

#[test]
fn a_payload_of_another_size_is_refused() {
    let (_, source) = data().into_iter().find(|(name, _)| name == "large-420.jpg").unwrap();
    let image = decode(&source, &Limits::default()).unwrap();
    let (kind, bytes) = pack_payload(&source, &image).unwrap();
    let mut renderer = Renderer::new();
    let mut render = |kind, width, height, bytes: &[u8]| {
        let view = View::draw(&ViewSpec::default(), width, height, key(1, Purpose::View));
        let payload = Payload { kind, width, height, bytes };
        let (mut out, mut times) = (vec![0; 48], StageTimes::default());
        renderer.render_payload(payload, &view, 0, 4, Interpolation::Bicubic, &mut out, &mut times)
    };
    assert_eq!(render(kind, image.width, image.height, &bytes), Ok(()));
    let words = |result: Result<(), DecodeError>| result.unwrap_err().to_string();
    assert!(words(render(kind, image.width + 1, image.height, &bytes)).contains("of this size"));
    assert!(words(render(kind, image.width, 65_000, &bytes)).contains("of this size"));
    assert!(
        words(render(PayloadKind::Rgb, image.width, image.height, &bytes)).contains("not as many pixels")
    );
    assert!(words(render(PayloadKind::Rgb, u32::MAX, u32::MAX, &bytes)).contains("not as many pixels"));
    let other = Payload { kind, width: image.width, height: image.height, bytes: &bytes };
    let view = View::draw(&ViewSpec::default(), 4000, 4000, key(1, Purpose::View));
    let mut out = vec![0; 48];
    let mut times = StageTimes::default();
    let found =
        Renderer::new().render_payload(other, &view, 0, 4, Interpolation::Bicubic, &mut out, &mut times);
    assert!(words(found).contains("drawn for another image"));
}
