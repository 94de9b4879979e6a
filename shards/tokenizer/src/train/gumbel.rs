//! Gumbel noise from a pool that is drawn once.
//!
//! Drawing a million values per step costs a quarter of a small network's training step. A pool with four million
//! values to spare and a random offset per step costs nothing.

use crate::error::{TokenizerError, torch};
use beit_views::{Purpose, SeedKey};
use tch::{Device, Tensor};

/// Most values beyond what one step needs.
const SPARE: usize = 4 << 20;

/// The noise of a whole run, a pure function of the seed.
pub(super) struct Gumbel {
    seed: u64,
    needed: i64,
    spare: u32,
    pool: Tensor, // [needed + spare]
}

impl Gumbel {
    /// Draws the pool for steps that need `needed` values each.
    pub(super) fn new(seed: u64, needed: usize, device: Device) -> Result<Self, TokenizerError> {
        let spare = (4 * needed).clamp(1 << 16, SPARE);
        let mut unit = vec![0f32; needed + spare];
        SeedKey { seed, stream: u64::MAX, index: 0, purpose: Purpose::Gumbel }
            .draws()
            .fill_unit_f32(&mut unit);
        for u in &mut unit {
            *u = -(-u.max(1e-10).ln()).ln();
        }
        let pool = Tensor::f_from_slice(&unit)
            .and_then(|t| t.f_to_device(device))
            .map_err(torch("copying noise"))?;
        Ok(Self { seed, needed: needed as i64, spare: spare as u32, pool })
    }

    /// The noise of one step, flat.
    pub(super) fn at(&self, step: u64) -> Result<Tensor, TokenizerError> {
        let key = SeedKey { seed: self.seed, stream: step, index: 0, purpose: Purpose::Gumbel };
        let offset = key.draws().below(self.spare);
        self.pool.f_narrow(0, i64::from(offset), self.needed).map_err(torch("taking noise"))
    }
}
