//! Small deterministic sets of samples to pack.

use beit_shards::{
    PAYLOAD_JPEG, PAYLOAD_RGB, Record, SampleId, SetSpec, ShardInfo, ShardWriter, TokenizerRef, ViewTokens,
};
use std::path::Path;

/// A spec with a 3×5 grid of 512-token views.
pub fn spec(views: u32) -> SetSpec {
    SetSpec {
        seed: 42,
        views,
        view_spec: "token_px 24; crop 0.08-1".to_owned(),
        tokenizer: TokenizerRef { digest: [7; 32], name: "tiny".to_owned(), vocab: 512 },
        grid: (3, 5),
        payload: "original".to_owned(),
    }
}

pub fn classes() -> Vec<String> {
    vec!["cat".to_owned(), "dog\nof two lines".to_owned()]
}

/// An owned sample.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    pub id: SampleId,
    pub label: u32,
    pub path: String,
    pub size: (u32, u32),
    pub kind: u8,
    pub payload: Vec<u8>,
    pub views: Vec<(u8, Vec<u16>)>,
}

/// A plain generator of test bytes (SplitMix64); no claim to quality.
pub struct Bytes(pub u64);

impl Bytes {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// Sample `number`; every third is a compressible RGB payload.
pub fn sample(number: u64, spec: &SetSpec) -> Sample {
    let mut bytes = Bytes(number);
    let path = format!("{}/é {number}.jpg", if number.is_multiple_of(2) { "cat" } else { "dog" });
    let kind = if number.is_multiple_of(3) { PAYLOAD_RGB } else { PAYLOAD_JPEG };
    let size = (4 + (number % 5) as u32, 6);
    let payload = match kind {
        PAYLOAD_RGB => (0..size.0 * size.1 * 3).map(|i| (i / 9) as u8).collect(),
        _ => (0..50 + number % 40).map(|_| bytes.next() as u8).collect(),
    };
    let tokens = spec.tokens();
    let vocab = u64::from(spec.tokenizer.vocab);
    let views = (0..spec.views)
        .map(|_| (bytes.next() as u8, (0..tokens).map(|_| (bytes.next() % vocab) as u16).collect()))
        .collect();
    Sample { id: SampleId::of_path(&path), label: (number % 2) as u32, path, size, kind, payload, views }
}

impl Sample {
    pub fn push(&self, writer: &mut ShardWriter) -> Result<(), beit_shards::ShardError> {
        let views: Vec<_> =
            self.views.iter().map(|(grey, tokens)| ViewTokens { grey: *grey, tokens }).collect();
        writer.push(&Record {
            id: self.id,
            label: self.label,
            path: &self.path,
            width: self.size.0,
            height: self.size.1,
            payload_kind: self.kind,
            payload: &self.payload,
            views: &views,
        })
    }
}

/// Writes shard `number` of a set of `per_shard` samples each, every shard with one quarantined entry.
pub fn write_shard(dir: &Path, number: u64, per_shard: u64, spec: &SetSpec) -> ShardInfo {
    let mut writer = ShardWriter::create(dir, number, spec, &classes()).unwrap();
    for i in 0..per_shard {
        sample(number * per_shard + i, spec).push(&mut writer).unwrap();
    }
    writer.quarantine(&format!("cat/bad {number}.jpg"), "truncated");
    writer.cover(number * (per_shard + 1), [number as u8 + 1; 32]);
    writer.finish().unwrap()
}

/// Asserts that sample `number` was read back with its view.
#[track_caller]
pub fn check_read(read: &beit_shards::SampleRef<'_>, number: u64, view: u32, spec: &SetSpec) {
    let sample = sample(number, spec);
    let (grey, tokens) = &sample.views[view as usize];
    assert_eq!(
        (read.id, read.label, read.path, (read.width, read.height), read.payload_kind),
        (sample.id, sample.label, sample.path.as_str(), sample.size, sample.kind)
    );
    assert_eq!((read.payload, read.grey, read.tokens), (sample.payload.as_slice(), *grey, tokens.as_slice()));
}
