//! Reading allocates nothing once the buffers have grown.
#![expect(unsafe_code, reason = "an allocator that counts")]

use crate::common::{classes, spec, write_shard};
use beit_shards::{Io, ReadBuf, ShardSet, publish_manifest};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: everything is handed on to the system's allocator unchanged; counting touches a thread-local number only.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller keeps alloc's contract, and it is the same here.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn reading_allocates_nothing_once_the_buffers_have_grown() {
    let dir = tempfile::tempdir().unwrap();
    let spec = spec(3);
    write_shard(dir.path(), 0, 30, &spec);
    publish_manifest(dir.path(), &spec, &classes(), 1).unwrap();
    for io in [Io::Mmap, Io::Pread] {
        let set = ShardSet::open(dir.path(), io).unwrap();
        let mut buf = ReadBuf::new();
        let mut round = || {
            let before = ALLOCATIONS.get();
            for index in 0..set.len() {
                set.will_need(index, 0);
                set.read(index, (index % 3) as u32, &mut buf).unwrap();
            }
            ALLOCATIONS.get() - before
        };
        assert!(round() > 0, "the counter counts");
        assert_eq!(round(), 0, "{io}");
    }
}
