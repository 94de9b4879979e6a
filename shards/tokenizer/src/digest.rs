//! A digest of weights that does not depend on the file they came in.

use crate::error::{TokenizerError, torch};
use crate::geometry::Geometry;
use crate::network::{Conv, Encoder};
use tch::{Device, Tensor};

/// BLAKE3 over the encoder's tensors in the order of their names.
///
/// Per tensor: length of the name (u32), name, number of dimensions (u32), dimensions (u64), values (f32), all
/// little-endian and row-major. Gains other than 1/layers² follow, as they change what the same tensors compute.
pub(crate) fn encoder_digest(encoder: &Encoder) -> Result<[u8; 32], TokenizerError> {
    let mut tensors: Vec<(String, &Tensor)> = encoder.convs().flat_map(named).collect();
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    let mut hasher = blake3::Hasher::new();
    for (name, tensor) in tensors {
        let size = tensor.size();
        hasher.update(&(name.len() as u32).to_le_bytes());
        hasher.update(name.as_bytes());
        hasher.update(&(size.len() as u32).to_le_bytes());
        for n in &size {
            hasher.update(&n.to_le_bytes());
        }
        hasher.update(&le_bytes(&values(tensor)?));
    }
    let (groups, blocks) = encoder.shape();
    let usual = Geometry::usual_gain(groups, blocks);
    let gains = encoder.block_gains();
    if gains.iter().any(|(_, gain)| *gain != usual) {
        for (_, gain) in gains {
            hasher.update(&gain.to_le_bytes());
        }
    }
    Ok(*hasher.finalize().as_bytes())
}

/// The two tensors of a convolution, by their state-dict names.
pub(crate) fn named(conv: &Conv) -> [(String, &Tensor); 2] {
    [(format!("{}.w", conv.name), &conv.weight), (format!("{}.b", conv.name), &conv.bias)]
}

/// The values of a tensor, row-major.
pub(crate) fn values(tensor: &Tensor) -> Result<Vec<f32>, TokenizerError> {
    let verb = torch("copying weights");
    let flat = tensor.f_detach().and_then(|t| t.f_to_device(Device::Cpu)).map_err(&verb)?;
    let flat = flat.f_contiguous().and_then(|t| t.f_view([-1])).map_err(&verb)?;
    let mut out = vec![0f32; flat.numel()];
    flat.f_copy_data(&mut out, flat.numel()).map_err(verb)?;
    Ok(out)
}

/// f32 as little-endian bytes.
pub(crate) fn le_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}
