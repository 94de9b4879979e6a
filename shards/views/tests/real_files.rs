//! Real photos: what the region decoder shows of a payload is what libjpeg-turbo shows of the whole source file.
//!
//! On `../shared/data/imagenet-sample.tar`, which may not be committed; without it the test says so and ends.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use beit_views::{
    Interpolation, Jitter, Limits, Payload, PayloadKind, PixelRect, Purpose, Renderer, RgbImage, SeedKey,
    StageTimes, View, ViewSpec, contrast_grey, decode, pack_payload,
};

const FILES: usize = 60;
const VIEWS: u32 = 3;

/// Unpacks the sample, if it is there, and lists its images.
fn photos(into: &Path) -> Option<Vec<PathBuf>> {
    let archive = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/imagenet-sample.tar");
    if !archive.is_file() {
        eprintln!("skipped: {} is not here", archive.display());
        return None;
    }
    let status = Command::new("tar").arg("xf").arg(archive).arg("-C").arg(into).status().unwrap();
    assert!(status.success(), "tar could not unpack the sample");
    let mut files = Vec::new();
    let mut folders = vec![into.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    files.retain(|path| path.extension().is_some_and(|extension| extension == "JPEG"));
    files.sort();
    Some(files)
}

fn check(name: &str, image: &RgbImage, payload: Payload<'_>, view: &View, px: u32, renderer: &mut Renderer) {
    let grey = contrast_grey(image, &view.jitter);
    let mut whole = vec![0; 3 * (px * px) as usize];
    let mut region = vec![1; whole.len()];
    let mut times = StageTimes::default();
    renderer.render_image(image, view, grey, px, Interpolation::Bicubic, &mut whole);
    renderer
        .render_payload(payload, view, grey, px, Interpolation::Bicubic, &mut region, &mut times)
        .unwrap();
    let differing = whole.iter().zip(&region).filter(|(one, other)| one != other).count();
    assert_eq!(differing, 0, "{name}: {differing} of {} bytes differ in {view:?} at {px} px", whole.len());
}

#[test]
fn crops_of_real_files_are_those_of_their_whole_decode() {
    let dir = tempfile::tempdir().unwrap();
    let Some(files) = photos(dir.path()) else { return };
    assert!(files.len() >= FILES, "only {} images in the sample", files.len());
    let mut renderer = Renderer::new();
    let mut cut = 0;
    for (stream, number) in (0..FILES).map(|file| file * files.len() / FILES).enumerate() {
        let path = &files[number];
        let (name, source) = (path.display().to_string(), fs::read(path).unwrap());
        let image = decode(&source, &Limits::default()).unwrap_or_else(|error| panic!("{name}: {error}"));
        let (width, height) = (image.width, image.height);
        let (kind, bytes) = pack_payload(&source, &image).unwrap();
        cut += usize::from(kind == PayloadKind::Jpeg);
        let payload = Payload { kind, width, height, bytes: &bytes };
        for index in 0..VIEWS {
            let key = SeedKey { seed: 5, stream: stream as u64, index, purpose: Purpose::View };
            let view = View::draw(&ViewSpec::default(), width, height, key);
            check(&name, &image, payload, &view, 224, &mut renderer);
            // A square that is neither resized nor coloured: its pixels as they were decoded.
            let side = view.crop.width.min(view.crop.height);
            let crop = PixelRect { width: side, height: side, ..view.crop };
            check(
                &name,
                &image,
                payload,
                &View { crop, flip: false, jitter: Jitter::NONE },
                side,
                &mut renderer,
            );
        }
    }
    assert!(cut > FILES * 9 / 10, "only {cut} of {FILES} files were packed as JPEGs that can be cut");
}
