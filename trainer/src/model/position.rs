//! Attention's bias by relative position.

use tch::Tensor;

use super::config::ModelConfig;
use super::error::{ModelError, tensor};
use super::weights::Builder;
use crate::init::Fill;

/// A learned number per head for every offset between two patches, and three for the pairs with cls.
#[derive(Debug)]
pub(super) struct RelativePositionBias {
    table: Tensor, // [(2W−1)² + 3, H]
    index: Tensor, // [T·T]
    positions: i64,
    heads: i64,
}

impl RelativePositionBias {
    pub(super) fn new(
        build: &mut Builder,
        name: &str,
        config: &ModelConfig,
    ) -> Result<RelativePositionBias, ModelError> {
        let side = i64::from(config.patches_per_side());
        let positions = side * side + 1;
        let heads = config.heads.into();
        let entries = (2 * side - 1) * (2 * side - 1) + 3;
        let table = build.parameter(
            &format!("{name}.relative_position_bias_table"),
            &[entries, heads],
            Fill::Constant(0.0),
        )?;
        let index = Tensor::f_from_slice(&relative_position_index(side, side))
            .and_then(|index| index.f_view([positions, positions]))
            .map_err(tensor("making the relative position index"))?;
        let index = build.buffer(&format!("{name}.relative_position_index"), &index)?;
        let index = index.f_flatten(0, 1).map_err(tensor("making the relative position index"))?;
        Ok(RelativePositionBias { table, index, positions, heads })
    }

    /// The bias of every pair of positions: `[1, H, T, T]`, rows = queries.
    pub(super) fn forward(&self) -> Result<Tensor, ModelError> {
        self.table
            .f_index_select(0, &self.index) // [T·T, H]
            .and_then(|bias| bias.f_view([self.positions, self.positions, self.heads]))
            .and_then(|bias| bias.f_permute([2, 0, 1])) // [H, T, T]
            .and_then(|bias| bias.f_contiguous())
            .and_then(|bias| bias.f_unsqueeze(0))
            .map_err(tensor("looking up the relative position bias"))
    }
}

/// Which entry of the bias table each pair of positions uses.
///
/// With n = (2·rows − 1)(2·cols − 1) + 3 entries, the last three are cls → patch, patch → cls, cls → cls.
///
/// # Shapes
/// `[T, T]` row-major, row = query, column = key, position 0 = cls
pub fn relative_position_index(rows: i64, cols: i64) -> Vec<i64> {
    let entries = (2 * rows - 1) * (2 * cols - 1) + 3;
    let patches = rows * cols;
    let mut index = Vec::with_capacity(((patches + 1) * (patches + 1)) as usize);
    index.push(entries - 1);
    index.extend((0..patches).map(|_| entries - 3));
    for query in 0..patches {
        index.push(entries - 2);
        let (i, j) = (query / cols, query % cols);
        index.extend((0..patches).map(|key| {
            let (down, across) = (i - key / cols + rows - 1, j - key % cols + cols - 1);
            down * (2 * cols - 1) + across
        }));
    }
    index
}

#[cfg(test)]
mod tests {
    use super::relative_position_index;

    #[track_caller]
    fn check(query: usize, key: usize, expect: i64) {
        let index = relative_position_index(14, 14);
        assert_eq!(index.len(), 197 * 197);
        assert_eq!(index[query * 197 + key], expect);
    }

    #[test]
    fn the_index_of_a_14_by_14_grid_is_the_references() {
        check(1, 1, 364);
        check(1, 2, 363);
        check(1, 15, 337);
        check(196, 1, 728);
        check(1, 196, 0);
    }

    #[test]
    fn pairs_with_cls_use_the_last_three_entries() {
        check(0, 1, 729);
        check(0, 196, 729);
        check(1, 0, 730);
        check(196, 0, 730);
        check(0, 0, 731);
    }

    #[test]
    fn every_entry_of_a_grid_that_is_not_square_is_used() {
        let (rows, cols) = (3, 5);
        let mut used = relative_position_index(rows, cols);
        used.sort_unstable();
        used.dedup();
        assert_eq!(used, (0..(2 * rows - 1) * (2 * cols - 1) + 3).collect::<Vec<_>>());
    }
}
