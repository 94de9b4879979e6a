//! Torch files from the street: files that Python wrote, files that Python must read, files that nobody should.

#![expect(clippy::unwrap_used, reason = "clippy knows test functions but not their helpers")]

mod damaged;
mod fixtures;
mod full_size;
mod golden;
mod memory;
mod python;
mod refused;
mod round_trip;

use std::path::PathBuf;

/// A file of `tests/data`; `make.py` there made them all.
fn data(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

/// A file of the repository's `tests/golden`.
fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(name)
}
