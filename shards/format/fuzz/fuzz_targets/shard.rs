//! Opens any bytes as a shard, reads and verifies whatever they offer, and must not panic.
//!
//! The first byte chooses whether checksums are made right again, without which little gets past the trailer.
//! Seed it with `cargo fuzz run shard -- -max_len=65536 corpus/shard` and `tests/golden/shard-v1/*.shard` behind a byte 1.
#![no_main]

#[path = "../../tests/it/resum.rs"]
mod resum;

use beit_shards::{Io, ReadBuf, Shard};
use libfuzzer_sys::fuzz_target;
use std::cell::RefCell;
use std::io::{Seek, Write};

thread_local! {
    static FILE: RefCell<tempfile::NamedTempFile> =
        RefCell::new(tempfile::NamedTempFile::new_in("/dev/shm").expect("a file in memory"));
}

fuzz_target!(|data: &[u8]| {
    let Some((&mode, shard)) = data.split_first() else { return };
    let mut shard = shard.to_vec();
    if mode % 2 == 1 {
        resum::resum(&mut shard);
    }
    FILE.with_borrow_mut(|file| {
        file.as_file().set_len(0).expect("empty the file");
        file.rewind().expect("rewind the file");
        file.write_all(&shard).expect("fill the file");
        let io = if mode & 2 == 0 { Io::Pread } else { Io::Mmap };
        let Ok(shard) = Shard::open(file.path(), io) else { return };
        let mut buf = ReadBuf::new();
        for index in 0..shard.len().min(20) {
            shard.will_need(index, 0);
            for view in 0..shard.spec().views.min(3) {
                if let Ok(read) = shard.read(index, view, &mut buf) {
                    let vocab = shard.spec().tokenizer.vocab;
                    assert!(read.tokens.iter().all(|&token| u32::from(token) < vocab));
                }
            }
        }
        let _ = shard.for_each_name(|_, _, _, _| Ok(()));
        if shard.len() < 1000 {
            shard.verify_all(&mut |_| {});
        }
    });
});
