//! What all samples of a set have in common.

use crate::codec::token_bits;
use crate::digest::Digest;
use crate::wire::{Put, Take};

/// Payload kind of a JPEG file; stored as it comes.
pub const PAYLOAD_JPEG: u8 = 0;
/// Payload kind of interleaved 8-bit RGB rows; zstd-compressed inside the shard where that helps.
pub const PAYLOAD_RGB: u8 = 1;

/// Longest text of a spec, in bytes.
const MAX_TEXT: usize = 4096;
/// Most views a sample can have.
const MAX_VIEWS: u32 = 1 << 20;

/// The tokenizer whose tokens a set holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenizerRef {
    /// BLAKE3 over its weights.
    pub digest: [u8; 32],
    /// Its name, for people.
    pub name: String,
    /// How many different tokens it has: 1 to 65,536.
    pub vocab: u32,
}

/// What all samples of a set have in common: two shards of one set have equal specs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetSpec {
    /// Seed of the views.
    pub seed: u64,
    /// K, the views per sample; at least 1.
    pub views: u32,
    /// How views are drawn and rendered, one canonical line; opaque here.
    pub view_spec: String,
    /// Who made the tokens.
    pub tokenizer: TokenizerRef,
    /// Token rows and columns of a view.
    pub grid: (u16, u16),
    /// Which pixels are kept, for example `original`; opaque here.
    pub payload: String,
}

impl SetSpec {
    /// Tokens per view.
    #[must_use]
    pub fn tokens(&self) -> usize {
        usize::from(self.grid.0) * usize::from(self.grid.1)
    }

    /// Bytes of one stored view: its grey level, its packed tokens and their checksum.
    #[must_use]
    pub fn view_bytes(&self) -> u64 {
        crate::record::frame_len(self) as u64
    }

    /// Why no shard can have this spec, if so.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        match () {
            () if !(1..=1 << 16).contains(&self.tokenizer.vocab) => {
                Err("the vocabulary must have 1 to 65536 tokens")
            }
            () if !(1..=MAX_VIEWS).contains(&self.views) => Err("there must be 1 to 1048576 views"),
            () if self.tokens() == 0 => Err("the token grid is empty"),
            () if self.tokens() > 1 << 20 => Err("the token grid has more than 1048576 tokens"),
            () if [&self.view_spec, &self.tokenizer.name, &self.payload]
                .iter()
                .any(|text| text.len() > MAX_TEXT) =>
            {
                Err("a text of the set's description is longer than 4096 bytes")
            }
            () => Ok(()),
        }
    }

    /// Bits per token inside a shard.
    pub(crate) fn bits(&self) -> u32 {
        token_bits(self.tokenizer.vocab)
    }

    pub(crate) fn put(&self, put: &mut Put) {
        put.u64(self.seed);
        put.u32(self.views);
        put.u16(self.grid.0);
        put.u16(self.grid.1);
        put.u32(self.tokenizer.vocab);
        put.bytes(&self.tokenizer.digest);
        put.text(&self.tokenizer.name);
        put.text(&self.view_spec);
        put.text(&self.payload);
    }

    pub(crate) fn take(take: &mut Take<'_>) -> Result<Self, &'static str> {
        let seed = take.u64()?;
        let views = take.u32()?;
        let grid = (take.u16()?, take.u16()?);
        let vocab = take.u32()?;
        let digest = take.digest()?;
        let name = take.text()?.to_owned();
        let view_spec = take.text()?.to_owned();
        let payload = take.text()?.to_owned();
        let spec =
            Self { seed, views, view_spec, tokenizer: TokenizerRef { digest, name, vocab }, grid, payload };
        spec.check()?;
        Ok(spec)
    }

    /// The first difference to `other` in words, or `None` for equal specs.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Option<String> {
        let (mine, theirs) = (&self.tokenizer, &other.tokenizer);
        if mine.digest != theirs.digest {
            let (a, b) = (Digest(mine.digest).to_string(), Digest(theirs.digest).to_string());
            return Some(format!(
                "tokenizer {} ({}) against {} ({})",
                mine.name,
                &a[..12],
                theirs.name,
                &b[..12]
            ));
        }
        let differ = |what: &str, a: &str, b: &str| (a != b).then(|| format!("{what} {a} against {b}"));
        differ("seed", &self.seed.to_string(), &other.seed.to_string())
            .or_else(|| differ("views", &self.views.to_string(), &other.views.to_string()))
            .or_else(|| differ("vocabulary", &mine.vocab.to_string(), &theirs.vocab.to_string()))
            .or_else(|| differ("tokenizer name", &mine.name, &theirs.name))
            .or_else(|| differ("token grid", &self.grid_text(), &other.grid_text()))
            .or_else(|| differ("view specification", &self.view_spec, &other.view_spec))
            .or_else(|| differ("payload", &self.payload, &other.payload))
    }

    fn grid_text(&self) -> String {
        format!("{}x{}", self.grid.0, self.grid.1)
    }
}
