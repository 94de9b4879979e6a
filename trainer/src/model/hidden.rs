//! Which patches of a batch are hidden, in the two forms the model needs.

use tch::{Device, Kind, Tensor};

use super::error::{ModelError, tensor};

/// The hidden patches of a batch. Made from the host's flags it costs the device no round trip.
#[derive(Debug)]
pub struct Hidden {
    /// `[B, N, 1]` bool, true = hidden.
    cells: Tensor,
    /// `[M]` i64, ascending: row-major numbers in 0..B·N.
    rows: Tensor,
}

impl Hidden {
    /// From the loader's flags.
    ///
    /// # Shapes
    /// `flags` `[B, N]` row-major, not 0 = hidden
    /// # Errors
    /// `flags` is not a whole number of images
    pub fn from_flags(flags: &[u8], batch: usize, device: Device) -> Result<Hidden, ModelError> {
        if batch == 0 || !flags.len().is_multiple_of(batch) {
            let found = vec![flags.len() as i64];
            return Err(ModelError::Shape { what: "mask", expected: format!("{batch} × N flags"), found });
        }
        let patches = flags.len() / batch;
        let rows: Vec<i64> =
            flags.iter().zip(0..).filter(|(flag, _)| **flag != 0).map(|(_, row)| row).collect();
        let cells = Tensor::f_from_data_size(flags, &[batch as i64, patches as i64, 1], Kind::Uint8)
            .and_then(|cells| cells.f_to_device(device))
            .and_then(|cells| cells.f_ne(0))
            .map_err(tensor("taking over the mask"))?;
        let rows = Tensor::f_from_slice(&rows)
            .and_then(|rows| rows.f_to_device(device))
            .map_err(tensor("taking over the mask"))?;
        Ok(Hidden { cells, rows })
    }

    /// From a mask that is a tensor already; on a GPU this waits for it.
    ///
    /// # Shapes
    /// `mask` `[B, N]` bool, true = hidden
    /// # Errors
    /// another shape
    pub fn from_mask(mask: &Tensor) -> Result<Hidden, ModelError> {
        if mask.dim() != 2 {
            return Err(ModelError::Shape {
                what: "mask",
                expected: "[B, N]".to_owned(),
                found: mask.size(),
            });
        }
        let cells = mask
            .f_to_kind(Kind::Bool)
            .and_then(|mask| mask.f_unsqueeze(-1))
            .map_err(tensor("taking over the mask"))?;
        let rows = cells
            .f_flatten(0, -1)
            .and_then(|flat| flat.f_nonzero())
            .and_then(|rows| rows.f_squeeze_dim(1))
            .map_err(tensor("finding hidden patches"))?;
        Ok(Hidden { cells, rows })
    }

    /// `M`: how many are hidden.
    pub fn count(&self) -> i64 {
        self.rows.size()[0]
    }

    /// `[B, N, 1]` bool.
    pub(super) fn cells(&self) -> &Tensor {
        &self.cells
    }

    /// `[M]` i64: row-major numbers of the hidden patches in 0..B·N.
    pub fn rows(&self) -> &Tensor {
        &self.rows
    }

    pub(super) fn check(&self, batch: i64, patches: i64) -> Result<(), ModelError> {
        let found = self.cells.size();
        if found == [batch, patches, 1] {
            return Ok(());
        }
        Err(ModelError::Shape {
            what: "mask",
            expected: format!("[{batch}, {patches}]"),
            found: found[..2].to_vec(),
        })
    }
}
