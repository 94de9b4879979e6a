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
