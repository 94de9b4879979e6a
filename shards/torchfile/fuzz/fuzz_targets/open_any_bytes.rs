//! Any bytes are read or refused: no panic, no endless walk, no memory beyond what `Limits` promise.
//!
//! From `shards/torchfile`: `cargo +nightly fuzz run open_any_bytes tests/data -- -rss_limit_mb=1024`

#![no_main]

use beit_torchfile::{Limits, TorchFile, parse_safetensors, pth_bytes};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let limits = Limits {
        max_expanded_bytes: 1 << 20,
        max_objects: 100_000,
        max_pickle_steps: 500_000,
        ..Limits::default()
    };
    if let Ok(file) = TorchFile::parse("fuzz.pth", bytes.to_vec(), &limits) {
        if let Ok(tensors) = file.state_dict(&["model", "module"]) {
            // Many names may stand for one tensor; a handful shows as much as all of them.
            for (_, tensor) in tensors.iter().take(8) {
                tensor.to_f32_vec();
            }
        }
    }
    if let Ok(file) = parse_safetensors("fuzz.safetensors", bytes.to_vec()) {
        let root = beit_torchfile::Value::state_dict(file.tensors.clone());
        let written = pth_bytes("fuzz.pth", &root).expect("tensors are writable");
        let back = TorchFile::parse("fuzz.pth", written, &Limits::default()).expect("we read what we write");
        if !file.tensors.is_empty() {
            let mut tensors = back.state_dict(&[]).expect("a state dict");
            tensors.sort_by(|a, b| a.0.cmp(&b.0));
            assert_eq!(tensors, file.tensors);
        }
    }
});
