//! What the loader itself costs: looking up the order, passing samples through the ring, reading and verifying records.
//!
//! `cargo bench -p beit-loader --bench stages`; rendering has benches of its own, in shards/views.

#[path = "../src/testing.rs"]
#[expect(dead_code, clippy::unwrap_used, reason = "helpers of tests")]
mod testing;

use beit_loader::inner::Handoff;
use beit_loader::{Order, Shuffle};
use beit_shards::{Io, ReadBuf, ShardSet};
use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use testing::TestSet;

const IMAGENET_22K: u64 = 14_197_122;
const TEN_BILLION: u64 = 10_000_000_000;

fn main() {
    divan::main();
}

/// Is a lookup as fast at ten billion samples as at fourteen million, and in blocks as in a full shuffle?
#[divan::bench(args = [IMAGENET_22K, TEN_BILLION], consts = [false, true])]
fn order_lookup_full_vs_blocks<const BLOCKS: bool>(bencher: Bencher<'_, '_>, samples: u64) {
    let shuffle = if BLOCKS { Shuffle::BLOCKS } else { Shuffle::Full };
    let epoch = Order::shuffled(1, samples, 16, shuffle).epoch(3);
    let mut place = 0;
    bencher.counter(ItemsCount::new(1u64)).bench_local(|| {
        place = (place + 1) % samples;
        epoch.sample(black_box(place))
    });
}

/// What does a sample pay for the ring when nobody else is at it: claim, finish, and its share of a batch's publishing?
#[divan::bench(args = [1, 16])]
fn ring_handoff(bencher: Bencher<'_, '_>, ranks: usize) {
    let mut handoff = Handoff::new(ranks, 3, 64);
    bencher.counter(ItemsCount::new(64 * ranks)).bench_local(|| handoff.pass_one_batch_each());
}

/// How fast are warm records of real photos read and verified, mapped and at offsets?
#[divan::bench(args = [Io::Mmap, Io::Pread])]
fn read_and_verify(bencher: Bencher<'_, '_>, io: Io) {
    let test_set = TestSet::of(48, 2);
    let set = ShardSet::open(test_set.dir.path(), io).expect("a set that was just packed");
    let bytes: u64 = set.shards().iter().map(beit_shards::Shard::bytes).sum();
    let mut buf = ReadBuf::new();
    bencher.counter(BytesCount::new(bytes)).counter(ItemsCount::new(set.len())).bench_local(|| {
        for sample in 0..set.len() {
            black_box(set.read(sample, 0, &mut buf).expect("a sound record"));
        }
    });
}

/// What does asking the kernel for a record that is in memory already cost?
#[divan::bench(args = [Io::Mmap, Io::Pread])]
fn will_need_when_warm(bencher: Bencher<'_, '_>, io: Io) {
    let test_set = TestSet::of(48, 2);
    let set = ShardSet::open(test_set.dir.path(), io).expect("a set that was just packed");
    let mut sample = 0;
    bencher.counter(ItemsCount::new(1u64)).bench_local(|| {
        sample = (sample + 1) % set.len();
        set.will_need(black_box(sample), 0);
    });
}
