//! Named tensors to safetensors and back.

use std::collections::BTreeMap;
use std::io::{Error, Write};
use std::path::Path;

use beit_torchfile::{Dtype, read_safetensors, safetensors_header};
use tch::{Kind, Tensor};

use crate::error::{TrainError, torch};
use crate::step::Tensors;

/// The kinds that a model or an optimizer can hold, in both languages.
pub(crate) const KINDS: &[(Kind, Dtype)] = &[
    (Kind::Float, Dtype::F32),
    (Kind::BFloat16, Dtype::BF16),
    (Kind::Half, Dtype::F16),
    (Kind::Double, Dtype::F64),
    (Kind::Int64, Dtype::I64),
    (Kind::Int, Dtype::I32),
    (Kind::Uint8, Dtype::U8),
    (Kind::Bool, Dtype::Bool),
];

/// Elements that are turned into bytes at a time.
const PIECE: i64 = 1 << 18;

/// Writes a safetensors file piece by piece; the same tensors give the same bytes. Tensors on the CPU are not copied whole.
///
/// # Errors
/// those of `out`; a kind that no checkpoint holds; libtorch out of memory
pub(super) fn write(tensors: &Tensors, out: &mut dyn Write) -> std::io::Result<()> {
    let shapes: Vec<Vec<usize>> = tensors
        .iter()
        .map(|(_, tensor)| tensor.size().into_iter().map(|side| side as usize).collect())
        .collect();
    let outline = tensors
        .iter()
        .zip(&shapes)
        .map(|((name, tensor), shape)| {
            let kind = tensor.kind();
            let known = KINDS.iter().find(|(known, _)| *known == kind);
            let (_, dtype) = known.ok_or_else(|| Error::other(format!("{name} is of kind {kind:?}")))?;
            Ok((name.as_str(), *dtype, shape.as_slice()))
        })
        .collect::<std::io::Result<Vec<_>>>()?;
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    let (header, order) = safetensors_header("checkpoint", &outline, &metadata).map_err(Error::other)?;
    out.write_all(&header)?;
    let mut piece = Vec::new();
    for at in order {
        write_elements(&tensors[at].1, &mut piece, out)?;
    }
    Ok(())
}

/// A tensor's elements, row-major, as they lie in memory; `piece` is only there to be used again.
fn write_elements(tensor: &Tensor, piece: &mut Vec<u8>, out: &mut dyn Write) -> std::io::Result<()> {
    let flat = tensor
        .detach()
        .f_to_device(tch::Device::Cpu)
        .and_then(|host| host.f_reshape([-1]))
        .map_err(Error::other)?;
    let (all, size) = (flat.numel() as i64, flat.kind().elt_size_in_bytes());
    for first in (0..all).step_by(PIECE as usize) {
        let count = PIECE.min(all - first);
        let bytes = count as usize * size;
        piece.resize(bytes.max(piece.len()), 0);
        flat.f_narrow(0, first, count)
            .and_then(|part| part.f_copy_data_u8(&mut piece[..bytes], count as usize))
            .map_err(Error::other)?;
        out.write_all(&piece[..bytes])?;
    }
    Ok(())
}

/// Reads a safetensors file.
///
/// # Errors
/// A file that is none, or that can't be read; a kind that no checkpoint holds.
pub(super) fn unpack(path: &Path) -> Result<Tensors, TrainError> {
    let damaged = |reason: String| TrainError::Damaged { checkpoint: path.into(), reason };
    let file = read_safetensors(path).map_err(|error| damaged(error.to_string()))?;
    file.tensors
        .iter()
        .map(|(name, tensor)| {
            let dtype = tensor.dtype();
            let Some((kind, _)) = KINDS.iter().find(|(_, known)| *known == dtype) else {
                return Err(damaged(format!("{name} holds {dtype:?}")));
            };
            let shape: Vec<i64> = tensor.shape().iter().map(|side| *side as i64).collect();
            let tensor = Tensor::f_from_data_size(&tensor.to_contiguous(), &shape, *kind)
                .map_err(torch("reading a checkpoint"))?;
            Ok((name.clone(), tensor))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_come_back_as_they_went() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        let tensors: Tensors = vec![
            ("a".into(), Tensor::randn([3, 4], (Kind::Float, tch::Device::Cpu))),
            ("b.c".into(), Tensor::from_slice(&[1i64, -2])),
            ("d".into(), Tensor::from(7f32)),
            ("e".into(), Tensor::randn([4, 3], (Kind::BFloat16, tch::Device::Cpu)).tr()),
            // Longer than a piece, and no whole number of them.
            ("f".into(), Tensor::randn([3, PIECE / 2 + 7], (Kind::Float, tch::Device::Cpu))),
        ];
        let mut written = Vec::new();
        write(&tensors, &mut written).unwrap();
        std::fs::write(&path, &written).unwrap();
        let mut read = unpack(&path).unwrap();
        read.sort_by(|a, b| a.0.cmp(&b.0));
        assert_eq!(read.len(), 5);
        for ((name, was), (read_name, is)) in tensors.iter().zip(&read) {
            assert_eq!(name, read_name);
            assert_eq!((was.size(), was.kind()), (is.size(), is.kind()));
            assert!(was == is, "{name}");
        }
        let mut again = Vec::new();
        write(&tensors, &mut again).unwrap();
        assert!(again == written);
    }
}
