//! Any bytes parse as a manifest whose text they are, or are refused.
#![no_main]

use beit_shards::Manifest;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(manifest) = Manifest::parse(data) {
        assert_eq!(manifest.encode().as_bytes(), data);
    }
});
