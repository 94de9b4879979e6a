use super::*;

#[track_caller]
fn check(bytes: &[u8], reason: &str, words: &str) {
    let error = decode(bytes, &Limits::default()).unwrap_err();
    assert_eq!(error.reason(), reason, "{error}");
    assert!(error.to_string().contains(words), "{error}");
}

#[test]
fn what_is_no_image_is_said_to_be_none() {
    check(b"", "not_an_image", "the file is empty");
    check(b"hello, I am a text file", "not_an_image", "starts with \"hello, I am a te\"");
    check(b"\x1f\x8b\x08\0\0\0\0\0", "unsupported", "gzip-compressed");
    check(b"GIF89a\x01\0\x01\0", "unsupported", "a GIF");
}

fn golden(name: &str) -> Vec<u8> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    std::fs::read(folder.join(name)).unwrap()
}

#[test]
#[cfg_attr(miri, ignore = "libjpeg-turbo is foreign code")]
fn a_header_that_promises_too_much_is_refused_before_memory_is_asked_for() {
    let mut jpeg = golden("small-444.jpg");
    let frame = jpeg.windows(2).position(|bytes| bytes == [0xFF, 0xC0]).unwrap();
    jpeg[frame + 5..frame + 9].copy_from_slice(&[0xFF, 0xDC, 0xFF, 0xDC]);
    check(&jpeg, "too_large", "65500x65500 pixels, at most 178956970 are read");

    let mut png = golden("grey.png");
    png[16..24].copy_from_slice(&[0, 0, 0xFF, 0xFF, 0, 0, 0xFF, 0xFF]);
    let sum = crc32(&png[12..29]);
    png[29..33].copy_from_slice(&sum.to_be_bytes());
    check(&png, "too_large", "65535x65535 pixels");

    let limits = Limits { max_bytes: 10, ..Limits::default() };
    assert_eq!(decode(&golden("grey.png"), &limits).unwrap_err().reason(), "too_large");
}

#[test]
fn an_image_of_no_rows_is_refused() {
    let mut png = golden("grey.png");
    png[20..24].fill(0);
    let sum = crc32(&png[12..29]);
    png[29..33].copy_from_slice(&sum.to_be_bytes());
    assert!(decode(&png, &Limits::default()).is_err());
}

#[test]
#[cfg_attr(miri, ignore = "libjpeg-turbo is foreign code")]
fn endless_scans_are_refused() {
    let limits = Limits { max_scans: 3, ..Limits::default() };
    let error = decode(&golden("small-progressive.jpg"), &limits).unwrap_err();
    assert_eq!(error.reason(), "too_large", "{error}");
    assert!(decode(&golden("small-progressive.jpg"), &Limits::default()).is_ok());
}

#[test]
#[cfg_attr(miri, ignore = "libjpeg-turbo is foreign code")]
fn a_jpeg_without_its_end_is_truncated() {
    let jpeg = golden("small-420.jpg");
    check(&jpeg[..jpeg.len() / 2], "truncated", "copy the file again");
    check(&jpeg[..jpeg.len() - 2], "truncated", "without an end of image");
}

fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ 0xEDB8_8320 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), step))
}
