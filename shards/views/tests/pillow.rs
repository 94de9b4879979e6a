//! Equality with Pillow, bit for bit, on the golden files that `make_pillow_golden.py` wrote.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::path::Path;

use beit_views::{
    Interpolation, Jitter, JitterStep, Limits, Payload, PayloadKind, PixelRect, Renderer, RgbImage,
    StageTimes, View, contrast_grey, decode, encode_jpeg, pack_payload, shrink_to_short_side,
};

fn data(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)).unwrap()
}

/// The words of each golden line that starts with `kind`, that word left out.
fn lines(kind: &str) -> Vec<Vec<String>> {
    let text = String::from_utf8(data("golden.txt")).unwrap();
    let lines = text.lines().filter_map(|line| line.strip_prefix(kind)?.strip_prefix(' '));
    let lines: Vec<Vec<String>> = lines.map(|line| line.split(' ').map(str::to_owned).collect()).collect();
    assert!(!lines.is_empty(), "golden.txt has no line for {kind}");
    lines
}

fn number<T: std::str::FromStr>(word: &str) -> T {
    word.parse().unwrap_or_else(|_| panic!("golden.txt: {word} is no number"))
}

fn image(name: &str) -> (Vec<u8>, RgbImage) {
    let source = data(name);
    let image = decode(&source, &Limits::default()).unwrap_or_else(|error| panic!("{name}: {error}"));
    (source, image)
}

#[track_caller]
fn check(what: &str, found: &[u8], expected: &[u8]) {
    let differing = found.iter().zip(expected).filter(|(a, b)| a != b).count();
    let worst = found.iter().zip(expected).map(|(a, b)| a.abs_diff(*b)).max();
    assert!(
        found == expected,
        "{what}: {differing} of {} samples differ, by up to {worst:?}",
        expected.len()
    );
}

#[test]
fn every_format_decodes_to_the_pixels_of_pillow() {
    let golden = data("golden.bin");
    for line in lines("decode") {
        let [name, width, height, offset] = &line[..] else { panic!("{line:?}") };
        let (_, image) = image(name);
        assert_eq!((image.width, image.height), (number(width), number(height)), "{name}");
        check(name, &image.pixels, &golden[number(offset)..][..image.pixels.len()]);
    }
}

#[test]
fn a_file_cut_short_is_refused_where_pillow_refuses_it() {
    for line in lines("cut") {
        let [name, length, verdict] = &line[..] else { panic!("{line:?}") };
        let source = &data(name)[..number(length)];
        match (decode(source, &Limits::default()), verdict.as_str()) {
            (Ok(_), "good") => {}
            (Err(error), "bad") => {
                let reason = error.reason();
                assert!(
                    reason == "truncated" || source.len() < 4,
                    "{name} cut at {length}: {reason}: {error}"
                );
            }
            // We want a PNG's end chunk, Pillow does not.
            (Err(error), "good") if name.starts_with("png") => assert_eq!(error.reason(), "truncated"),
            (found, _) => panic!("{name} cut at {length}: Pillow says {verdict}, we say {found:?}"),
        }
    }
}

struct GoldenView {
    name: String,
    view: View,
    px: u32,
    kernel: Interpolation,
    grey: u8,
    pixels: Vec<u8>,
}

fn golden_views() -> Vec<GoldenView> {
    let golden = data("golden.bin");
    let read = |line: Vec<String>| {
        let [name, b, c, s, order, flip, left, top, width, height, px, kernel, grey, offset] = &line[..]
        else {
            panic!("{line:?}")
        };
        let steps: Vec<JitterStep> = order
            .chars()
            .map(|step| match step {
                'b' => JitterStep::Brightness,
                'c' => JitterStep::Contrast,
                _ => JitterStep::Saturation,
            })
            .collect();
        let jitter = Jitter {
            brightness: number(b),
            contrast: number(c),
            saturation: number(s),
            order: steps.try_into().unwrap(),
        };
        let crop =
            PixelRect { left: number(left), top: number(top), width: number(width), height: number(height) };
        let px: u32 = number(px);
        GoldenView {
            name: name.clone(),
            view: View { jitter, flip: flip == "1", crop },
            px,
            kernel: kernel.parse().unwrap(),
            grey: number(grey),
            pixels: golden[number(offset)..][..(px * px * 3) as usize].to_vec(),
        }
    };
    lines("view").into_iter().map(read).collect()
}

#[test]
fn the_grey_of_the_contrast_step_is_pillows() {
    for golden in golden_views() {
        let (_, image) = image(&golden.name);
        assert_eq!(contrast_grey(&image, &golden.view.jitter), golden.grey, "{}", golden.name);
    }
}

#[test]
fn a_view_of_an_image_is_pillows() {
    let mut renderer = Renderer::new();
    for golden in golden_views() {
        let GoldenView { name, view, px, kernel, grey, pixels } = &golden;
        let (_, image) = image(name);
        let mut out = vec![0; pixels.len()];
        renderer.render_image(&image, view, *grey, *px, *kernel, &mut out);
        check(&format!("{name} {kernel} {px} {view:?}"), &out, pixels);
    }
}

#[test]
fn a_view_of_a_payload_is_pillows() {
    let mut renderer = Renderer::new();
    let mut kinds = Vec::new();
    for golden in golden_views() {
        let GoldenView { name, view, px, kernel, grey, pixels } = &golden;
        let (source, image) = image(name);
        let (kind, bytes) = pack_payload(&source, &image).unwrap();
        kinds.push((name.clone(), kind));
        let payload = Payload { kind, width: image.width, height: image.height, bytes: &bytes };
        let mut out = vec![0; pixels.len()];
        let mut times = StageTimes::default();
        renderer.render_payload(payload, view, *grey, *px, *kernel, &mut out, &mut times).unwrap();
        check(&format!("{name} {kernel} {px} {view:?}"), &out, pixels);
    }
    for (name, kind) in kinds {
        let jpeg = name.ends_with(".jpg") && !name.contains("cmyk");
        assert_eq!(kind == PayloadKind::Jpeg, jpeg, "{name} was packed as {kind:?}");
    }
}

#[test]
fn a_renderer_moves_between_threads() {
    fn check<T: Send + 'static>() {}
    check::<Renderer>();
}

#[test]
fn a_shrunk_image_is_pillows() {
    let golden = data("golden.bin");
    for line in lines("shrink") {
        let [name, side, width, height, offset] = &line[..] else { panic!("{line:?}") };
        let (_, image) = image(name);
        let small = shrink_to_short_side(&image, number(side));
        assert_eq!((small.width, small.height), (number(width), number(height)), "{name}");
        check(
            &format!("{name} shrunk to {side}"),
            &small.pixels,
            &golden[number(offset)..][..small.pixels.len()],
        );
    }
}

#[test]
fn an_encoded_image_shows_what_pillows_does() {
    let golden = data("golden.bin");
    for line in lines("encode") {
        let [name, quality, width, height, offset] = &line[..] else { panic!("{line:?}") };
        let (_, image) = image(name);
        let jpeg = encode_jpeg(&image, number(quality)).unwrap();
        let coded = decode(&jpeg, &Limits::default()).unwrap();
        assert_eq!((coded.width, coded.height), (number(width), number(height)), "{name}");
        let expected = &golden[number(offset)..][..coded.pixels.len()];
        check(&format!("{name} at quality {quality}"), &coded.pixels, expected);
    }
}
