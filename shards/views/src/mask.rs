//! Which patches of a view are hidden: BEiT's block-wise masks, on any grid.

use crate::random::SeedKey;

/// Whole patches that tile a square or oblong view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PatchGrid {
    /// Patches from top to bottom.
    pub rows: u32,
    /// Patches from left to right.
    pub cols: u32,
}

impl PatchGrid {
    /// The square grid of a `px` pixel view cut in patches of `patch_px`; `None` unless they tile it exactly.
    pub fn tiling(px: u32, patch_px: u32) -> Option<Self> {
        let side = px.checked_div(patch_px).filter(|&side| side > 0 && side * patch_px == px)?;
        Some(Self { rows: side, cols: side })
    }

    /// Patches in all.
    pub fn len(self) -> usize {
        self.rows as usize * self.cols as usize
    }

    /// Whether there is no patch at all.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }
}

impl std::fmt::Display for PatchGrid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}x{}", self.rows, self.cols)
    }
}

/// How many patches to hide, and in what blocks; the reference's option names.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MaskSpec {
    /// Patches to hide; a mask may fall short of it, never exceed it.
    pub num_mask_patches: u32,
    /// The smallest area a block is drawn with, in patches.
    pub min_mask_patches_per_block: u32,
    /// The most new patches of one block; `None`: no limit but what is still missing.
    pub max_mask_patches_per_block: Option<u32>,
    /// Lowest and highest height / width of a block.
    pub aspect: (f64, f64),
}

impl Default for MaskSpec {
    /// 75 of 196, blocks of at least 16, as the reference's pre-training recipes.
    fn default() -> Self {
        Self {
            num_mask_patches: 75,
            min_mask_patches_per_block: 16,
            max_mask_patches_per_block: None,
            aspect: (0.3, 1.0 / 0.3),
        }
    }
}

/// Why no mask can be drawn as asked.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum MaskError {
    /// More patches are to be hidden than there are.
    #[error("{asked} patches are to be hidden, but a {grid} grid has {}; lower num_mask_patches", grid.len())]
    TargetTooLarge {
        /// `num_mask_patches`
        asked: u32,
        /// the grid of the view
        grid: PatchGrid,
    },
    /// Blocks must have fewer rows and columns than the grid, so such a grid can hide nothing.
    #[error("a {grid} grid has no room for a block; use a grid of at least 2x2 patches or hide none")]
    GridTooSmall {
        /// the grid of the view
        grid: PatchGrid,
    },
    /// The aspect range is not two positive numbers in order.
    #[error("block aspects must be positive and in order, not {low} to {high}")]
    Aspect {
        /// lower end
        low: f64,
        /// upper end
        high: f64,
    },
    /// The limits of a block contradict each other.
    #[error("a block of at least {min} patches cannot have at most {max}; raise max_mask_patches_per_block")]
    Block {
        /// `min_mask_patches_per_block`
        min: u32,
        /// `max_mask_patches_per_block`
        max: u32,
    },
}

impl MaskSpec {
    /// Whether masks of this kind make sense on `grid`; [`draw_mask`] does something harmless anyway.
    ///
    /// # Errors
    /// the first contradiction found
    pub fn check(&self, grid: PatchGrid) -> Result<(), MaskError> {
        let (low, high) = self.aspect;
        if self.num_mask_patches as usize > grid.len() {
            return Err(MaskError::TargetTooLarge { asked: self.num_mask_patches, grid });
        }
        if self.num_mask_patches > 0 && (grid.rows < 2 || grid.cols < 2) {
            return Err(MaskError::GridTooSmall { grid });
        }
        if !(low > 0.0 && low <= high && high.is_finite()) {
            return Err(MaskError::Aspect { low, high });
        }
        match self.max_mask_patches_per_block {
            Some(max) if max < self.min_mask_patches_per_block => {
                Err(MaskError::Block { min: self.min_mask_patches_per_block, max })
            }
            _ => Ok(()),
        }
    }
}

/// Draws the hidden patches of one view, block by block.
///
/// Blocks may overlap and a block that does not fit is given up after ten tries, so fewer than
/// `spec.num_mask_patches` may end up hidden (a third of the masks at 75 of 196); never more.
///
/// # Shapes
/// `out` has `[N]` flags, row-major over `grid`: 1 = hidden, 0 = seen
/// # Panics
/// when `out` is not as long as `grid`
/// # Source
/// BEiT, arXiv:2106.08254; `unilm/beit/masking_generator.py`. Ours differs: one key per sample and epoch.
pub fn draw_mask(grid: PatchGrid, spec: &MaskSpec, key: SeedKey, out: &mut [u8]) {
    assert_eq!(out.len(), grid.len(), "a mask has one flag per patch of its grid");
    out.fill(0);
    let mut draws = key.draws();
    let log_aspect = (spec.aspect.0.ln(), spec.aspect.1.ln());
    let most = spec.max_mask_patches_per_block.unwrap_or(spec.num_mask_patches);
    let mut count = 0;
    while count < spec.num_mask_patches {
        let budget = (spec.num_mask_patches - count).min(most);
        let added = (0..10).find_map(|_| {
            let area = draws.uniform(f64::from(spec.min_mask_patches_per_block), f64::from(budget));
            let aspect = draws.uniform(log_aspect.0, log_aspect.1).exp();
            let height = (area * aspect).sqrt().round_ties_even() as u32;
            let width = (area / aspect).sqrt().round_ties_even() as u32;
            if width >= grid.cols || height >= grid.rows {
                return None;
            }
            let top = draws.below(grid.rows - height + 1);
            let left = draws.below(grid.cols - width + 1);
            place(grid, (top, left, height, width), budget, out)
        });
        match added {
            Some(added) => count += added,
            None => break,
        }
    }
}

/// Hides a block if that adds 1 to `budget` patches; says how many were added.
fn place(
    grid: PatchGrid,
    (top, left, height, width): (u32, u32, u32, u32),
    budget: u32,
    out: &mut [u8],
) -> Option<u32> {
    let rows = || {
        (top..top + height).map(|row| {
            let start = row as usize * grid.cols as usize + left as usize;
            start..start + width as usize
        })
    };
    let hidden: u32 = rows().flat_map(|row| &out[row]).map(|&flag| u32::from(flag)).sum();
    let new = height * width - hidden;
    if new == 0 || new > budget {
        return None;
    }
    rows().for_each(|row| out[row].fill(1));
    Some(new)
}

#[cfg(test)]
mod tests;
