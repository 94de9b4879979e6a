//! Summary: what a build has packed, for people and for scripts.

use crate::stages::CpuSeconds;
use serde::Serialize;

/// What `build --json` prints.
#[derive(Debug, Serialize)]
pub struct Summary {
    pub(super) samples: u64,
    pub(super) quarantined: u64,
    pub(super) shards: usize,
    pub(super) views: u32,
    pub(super) tokens: u64,
    pub(super) bytes: u64,
    pub(super) seconds: f64,
    pub(super) images_per_s: f64,
    pub(super) tokens_per_s: f64,
    pub(super) cpu_seconds: CpuSeconds,
    pub(super) digest: String,
    pub(super) out: String,
    /// What to type now; nothing after a round of a watch, which goes on by itself.
    #[serde(skip)]
    pub(super) next: Option<String>,
}

impl Summary {
    /// For people.
    pub fn print(&self) {
        println!(
            "Packed {} images ({} quarantined), {} views each, into {} shards of {:.1} MB in all: {}",
            self.samples,
            self.quarantined,
            self.views,
            self.shards,
            self.bytes as f64 / 1e6,
            self.out
        );
        let next = self.next.as_ref().map(|next| format!(" Next: {next}")).unwrap_or_default();
        println!(
            "{:.1} s, {:.1} images/s, {:.0} tokens/s; processor time: {}.{next}",
            self.seconds, self.images_per_s, self.tokens_per_s, self.cpu_seconds
        );
    }
}
