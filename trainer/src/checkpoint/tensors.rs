//! Named tensors to safetensors and back.

use std::collections::BTreeMap;
use std::path::Path;

use beit_torchfile::{Dtype, read_safetensors, safetensors_bytes};
use tch::{Kind, Tensor};

use crate::error::{TrainError, torch};
use crate::step::{Tensors, bytes};

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

/// The bytes of a safetensors file; the same tensors give the same bytes.
///
/// # Errors
/// A kind that no checkpoint holds; libtorch out of memory.
pub(super) fn pack(tensors: &Tensors) -> Result<Vec<u8>, TrainError> {
    let broken = |name: &str, why: String| TrainError::Broken(format!("saving {name}: {why}"));
    let packed = tensors
        .iter()
        .map(|(name, tensor)| {
            let kind = tensor.kind();
            let Some((_, dtype)) = KINDS.iter().find(|(known, _)| *known == kind) else {
                return Err(broken(name, format!("a tensor of kind {kind:?}")));
            };
            let shape: Vec<usize> = tensor.size().into_iter().map(|side| side as usize).collect();
            let tensor = beit_torchfile::Tensor::from_bytes(*dtype, &shape, bytes(tensor)?)
                .map_err(|error| broken(name, error.to_string()))?;
            Ok((name.as_str(), tensor))
        })
        .collect::<Result<Vec<_>, _>>()?;
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors_bytes("checkpoint", packed.iter().map(|(name, tensor)| (*name, tensor)), &metadata)
        .map_err(|error| broken("a checkpoint", error.to_string()))
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
        ];
        std::fs::write(&path, pack(&tensors).unwrap()).unwrap();
        let mut read = unpack(&path).unwrap();
        read.sort_by(|a, b| a.0.cmp(&b.0));
        assert_eq!(read.len(), 4);
        for ((name, was), (read_name, is)) in tensors.iter().zip(&read) {
            assert_eq!(name, read_name);
            assert_eq!((was.size(), was.kind()), (is.size(), is.kind()));
            assert!(was == is, "{name}");
        }
        assert_eq!(pack(&tensors).unwrap(), std::fs::read(&path).unwrap());
    }
}
