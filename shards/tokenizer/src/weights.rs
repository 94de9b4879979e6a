//! A bag of named tensors on its way into a network, which takes them out one by one.

use crate::error::{TokenizerError, torch};
use std::collections::BTreeMap;
use tch::{Device, Kind, Tensor};

/// Named fp32 tensors, and the gains that a whole-module pickle states for its blocks.
pub(crate) struct Weights {
    where_: String,
    device: Device,
    tensors: BTreeMap<String, Tensor>,
    gains: BTreeMap<String, f64>,
}

impl Weights {
    /// An empty bag; `where_` opens every error message.
    pub(crate) fn new(where_: impl Into<String>, device: Device) -> Self {
        Self { where_: where_.into(), device, tensors: BTreeMap::new(), gains: BTreeMap::new() }
    }

    /// Adds `values`, row-major, under a state-dict name.
    pub(crate) fn insert(
        &mut self,
        name: &str,
        shape: &[usize],
        values: &[f32],
    ) -> Result<(), TokenizerError> {
        let size: Vec<i64> = shape.iter().map(|&n| n as i64).collect();
        let tensor = Tensor::f_from_slice(values)
            .and_then(|t| t.f_reshape(&size))
            .and_then(|t| t.f_to_device(self.device))
            .map_err(torch("copying weights"))?;
        self.tensors.insert(name.to_owned(), tensor);
        Ok(())
    }

    /// Notes the gain of block `name` (`blocks.group_1.block_1`).
    pub(crate) fn insert_gain(&mut self, name: &str, gain: f64) {
        self.gains.insert(name.to_owned(), gain);
    }

    pub(crate) fn gain(&self, block: &str) -> Option<f64> {
        self.gains.get(block).copied()
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Takes one fp32 tensor out.
    pub(crate) fn take(&mut self, name: &str) -> Result<Tensor, TokenizerError> {
        let tensor = self.tensors.remove(name).ok_or_else(|| self.shape(name, "is missing".to_owned()))?;
        tensor.f_to_kind(Kind::Float).map_err(torch("converting weights"))
    }

    /// How many blocks each group has, by the names.
    pub(crate) fn block_counts(&self) -> Result<Vec<u32>, TokenizerError> {
        let mut groups: BTreeMap<u32, u32> = BTreeMap::new();
        for name in self.tensors.keys() {
            if let Some((group, block)) = parse_block(name) {
                let blocks = groups.entry(group).or_default();
                *blocks = block.max(*blocks);
            }
        }
        let counts: Vec<u32> = groups.values().copied().collect();
        if counts.is_empty() {
            return Err(self.shape("blocks.group_1", "is missing".to_owned()));
        }
        if groups.keys().enumerate().any(|(i, &group)| group as usize != i + 1) || counts.len() > 8 {
            let found: Vec<String> = groups.keys().map(u32::to_string).collect();
            return Err(self.shape(
                "blocks",
                format!("has groups {}; they must count from 1 without gaps, at most 8", found.join(", ")),
            ));
        }
        Ok(counts)
    }

    /// Checks that the network took everything.
    pub(crate) fn finish(&self) -> Result<(), TokenizerError> {
        match self.tensors.keys().next() {
            None => Ok(()),
            Some(name) => Err(self.shape(name, "has no place in a dVAE of this shape".to_owned())),
        }
    }

    /// An error about one tensor.
    pub(crate) fn shape(&self, name: &str, problem: String) -> TokenizerError {
        TokenizerError::Shape { where_: self.where_.clone(), name: name.to_owned(), problem }
    }
}

/// `blocks.group_2.block_1.res_path.conv_1.w` → (2, 1).
fn parse_block(name: &str) -> Option<(u32, u32)> {
    let (group, rest) = name.strip_prefix("blocks.group_")?.split_once(".block_")?;
    let (block, _) = rest.split_once('.')?;
    Some((group.parse().ok()?, block.parse().ok()?))
}
