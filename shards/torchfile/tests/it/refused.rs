use beit_torchfile::{Error, Limits, TorchFile, read_safetensors, state_dict};

use crate::data;

/// Refuses `name` with a message that has all `words`.
#[track_caller]
fn check(name: &str, words: &[&str]) {
    let message = TorchFile::open(data(name)).unwrap_err().to_string();
    for word in words.iter().chain(&[name]) {
        assert!(message.contains(word), "{word:?} is not in: {message}");
    }
}

#[track_caller]
fn check_bytes(bytes: &[u8], words: &str) {
    let message = TorchFile::parse("x.pth", bytes.to_vec(), &Limits::default()).unwrap_err().to_string();
    assert!(message.contains(words), "{words:?} is not in: {message}");
}

#[test]
fn a_dangerous_global_is_named_and_not_run() {
    check("evil.pth", &["`posix.system`", "nothing was run", "torch.save(model.state_dict()"]);
    check("evil.legacy.pth", &["`posix.system`", "nothing was run"]);
    assert!(!std::path::Path::new("pwned").exists());
}

#[test]
fn foreign_containers_are_told_apart() {
    check("plain.pkl", &["a plain pickle"]);
    check("script.pt", &["TorchScript", "torch.jit.load"]);
    check("compressed.pth", &["compressed", "save it again"]);
    check("tricky.safetensors", &["looks like safetensors"]);
    check("make.py", &["begins like no container"]);
    check_bytes(b"", "it is empty");
    check_bytes(b"<!DOCTYPE html><html>", "a web page");
    check_bytes(b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull");
    check_bytes(b"\x1f\x8b\x08", "compressed");
}

#[test]
fn big_endian_files_are_refused() {
    check("big_endian.pth", &["big-endian"]);
    check("big_endian.legacy.pth", &["big-endian"]);
}

#[test]
fn lost_numbers_are_noticed() {
    check("missing_storage.pth", &["archive/data/0 is missing"]);
    check("short_storage.pth", &["storage 0", "40 elements of float32 do not fill 100 bytes"]);
    check("outside.legacy.pth", &["storage root", "reaches past the 12 stored"]);
}

#[test]
fn a_changed_number_fails_its_checksum() {
    let mut bytes = std::fs::read(data("tricky.pth")).unwrap();
    let pi = 23f32.to_le_bytes();
    let at = bytes.windows(4).position(|window| window == pi).unwrap();
    bytes[at] ^= 1;
    check_bytes(&bytes, "checksum");
}

#[test]
fn a_folder_and_a_missing_file_are_named() {
    let message = TorchFile::open(data("")).unwrap_err().to_string();
    assert!(message.contains("it is a folder"), "{message}");
    let error = state_dict(data("nowhere.pth"), &[]).unwrap_err();
    assert!(matches!(error, Error::Io { .. }) && error.to_string().contains("nowhere.pth: opening failed"));
}

#[test]
fn a_checkpoint_without_the_wanted_keys_tells_what_it_has() {
    let message = state_dict(data("tricky.pth"), &["teacher"]).unwrap_err().to_string();
    // The top level holds one tensor, so a wrong key must still not pass for a state dict of one.
    assert!(message.contains("teacher") && message.contains("model (a dict of 20)"), "{message}");
}

#[test]
fn broken_safetensors_are_refused() {
    let error = read_safetensors(data("plain.pkl")).unwrap_err();
    assert!(error.to_string().contains("not a sound safetensors file"), "{error}");
}

/// A legacy file around the program `object`.
fn legacy(object: &[u8]) -> Vec<u8> {
    let mut bytes = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.".to_vec();
    bytes.extend(b"\x80\x02M\xe9\x03.");
    bytes.extend(b"\x80\x02}X\x0d\x00\x00\x00little_endian\x88s.");
    bytes.extend(object);
    bytes.extend(b"\x80\x02].");
    bytes
}

#[test]
fn programs_that_ask_for_too_much_are_stopped() {
    let deep = [b"]".repeat(600), b"a".repeat(599), b".".to_vec()].concat();
    check_bytes(&legacy(&deep), "depth of nested values: 501 is over the limit of 500");
    check_bytes(&legacy(b"]q\x00h\x00a."), "contains itself");
    check_bytes(&legacy(b"X\xff\xff\xff\xff."), "wants 4294967295 bytes");
    check_bytes(&legacy(b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff."), "wants 18446744073709551615 bytes");
    check_bytes(&legacy(b"h\x05."), "memo slot 5 is empty");
    check_bytes(&legacy(b"0."), "empty stack");
    check_bytes(&legacy(b"K\x01(0a."), "empty stack");
    check_bytes(&legacy(b"P1\n."), "instruction 0x50");
    check_bytes(&legacy(b"}K\x01NR."), "calls something that is no global");
    check_bytes(&legacy(b"(K\x01K\x02K\x03d."), "a key without a value");
    check_bytes(&legacy(b"K\x01l."), "a mark that is not there");
    check_bytes(&legacy(b"K\x01K\x02a."), "appends to something that is no list");
    let long = [b"c".to_vec(), b"a".repeat(5000), b"\n\n.".to_vec()].concat();
    check_bytes(&legacy(&long), "name without an end");
}

#[test]
fn lists_of_lists_of_lists_stay_as_small_as_their_file() {
    let mut program = b"]q\x00".to_vec();
    for level in 0..100 {
        program.extend([b'(', b'h', level, b'h', level, b'l', b'q', level + 1]);
    }
    program.push(b'.');
    // Written out, these would be 2^100 values.
    let file = TorchFile::parse("x.pth", legacy(&program), &Limits::default()).unwrap();
    assert_eq!(file.root.as_items().unwrap().len(), 2);
}

#[test]
fn a_module_of_shared_modules_is_not_walked_forever() {
    let text = |text: &str| [b"X".as_slice(), &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat();
    let mut program = b"Nq\x00".to_vec();
    for level in 0..60 {
        // Sequential, its state {"_modules": {"a": module below, "b": module below}}
        program.extend(b"ctorch.nn.modules.container\nSequential\n)\x81}");
        program.extend(text("_modules"));
        program.extend(b"}(");
        program.extend([text("a"), vec![b'h', level], text("b"), vec![b'h', level]].concat());
        program.extend([b'u', b's', b'b', b'q', level + 1]);
    }
    program.push(b'.');
    let file = TorchFile::parse("x.pth", legacy(&program), &Limits::default()).unwrap();
    let message = file.state_dict(&[]).unwrap_err().to_string();
    assert!(message.contains("stand for more than 100000"), "{message}");
}

#[test]
fn limits_are_kept_and_name_their_option() {
    let refused = |limits: Limits| TorchFile::open_with(data("tricky.pth"), &limits).unwrap_err().to_string();
    let all = Limits::default;
    for (message, option) in [
        (refused(Limits { max_file_bytes: 10, ..all() }), "`Limits::max_file_bytes`"),
        (refused(Limits { max_pickle_bytes: 100, ..all() }), "`Limits::max_pickle_bytes`"),
        (refused(Limits { max_pickle_steps: 100, ..all() }), "`Limits::max_pickle_steps`"),
        (refused(Limits { max_objects: 100, ..all() }), "`Limits::max_objects`"),
        (refused(Limits { max_depth: 2, ..all() }), "`Limits::max_depth`"),
    ] {
        assert!(message.contains(option), "{option} is not in: {message}");
    }
    let message = refused(Limits { max_expanded_bytes: 10, ..all() });
    assert!(message.contains("over the limit of 10 for expanded tensors"), "{message}");
}
