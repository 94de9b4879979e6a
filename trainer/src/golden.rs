//! Reading the golden files, for tests.

use std::path::PathBuf;

use tch::{Device, Kind, Tensor};

use crate::model::ModelConfig;

/// Tensors by name.
pub(crate) struct Golden(Vec<(String, Tensor)>);

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/golden").join(name)
}

impl Golden {
    /// A safetensors file.
    pub(crate) fn open(name: &str) -> Golden {
        Golden::read(&path(name))
    }

    /// A safetensors file anywhere.
    pub(crate) fn read(path: &std::path::Path) -> Golden {
        Golden(Tensor::read_safetensors(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
    }

    /// A checkpoint of the reference.
    pub(crate) fn open_pth(name: &str) -> Golden {
        let tensors = beit_torchfile::state_dict(path(name), &["model"]).unwrap();
        let taken = tensors.into_iter().map(|(name, tensor)| {
            let shape: Vec<i64> = tensor.shape().iter().map(|side| *side as i64).collect();
            let kind = match tensor.dtype() {
                beit_torchfile::Dtype::F32 => Kind::Float,
                beit_torchfile::Dtype::I64 => Kind::Int64,
                other => panic!("{name} is {other:?}"),
            };
            let values = Tensor::f_from_data_size(&tensor.to_contiguous(), &shape, kind).unwrap();
            (name, values)
        });
        Golden(taken.collect())
    }

    pub(crate) fn get(&self, name: &str) -> &Tensor {
        &self.0.iter().find(|(known, _)| known == name).unwrap_or_else(|| panic!("no tensor {name}")).1
    }

    pub(crate) fn all(&self) -> &[(String, Tensor)] {
        &self.0
    }

    /// Those whose name begins with `prefix`, without it.
    pub(crate) fn under(&self, prefix: &str) -> Vec<(String, Tensor)> {
        self.0
            .iter()
            .filter_map(|(name, tensor)| {
                Some((name.strip_prefix(prefix)?.to_owned(), tensor.shallow_clone()))
            })
            .collect()
    }
}

/// The model of `beit-tiny/pretrain.pth`. Asking for it leaves libtorch one thread: small tensors only lose by more,
/// and on a busy machine they lose minutes.
pub(crate) fn beit_tiny() -> ModelConfig {
    beit_torch::set_threads(1).unwrap();
    ModelConfig {
        image_px: 64,
        width: 48,
        depth: 3,
        heads: 3,
        vocab: 64,
        drop_path: 0.0,
        ..ModelConfig::base()
    }
}

/// The model of `beit-variants/abs-pos.safetensors`; one thread, as above.
pub(crate) fn abs_pos() -> ModelConfig {
    beit_torch::set_threads(1).unwrap();
    ModelConfig {
        image_px: 40,
        patch_px: 8,
        width: 24,
        depth: 2,
        heads: 3,
        mlp_ratio: 2.0,
        vocab: 40,
        rel_pos_bias: false,
        abs_pos_emb: true,
        init_values: 0.0,
        drop_path: 0.0,
        eps: 1e-5,
    }
}

/// The largest difference, in parts of the largest expected number.
#[track_caller]
pub(crate) fn relative_error(found: &Tensor, expect: &Tensor) -> f64 {
    assert_eq!(found.size(), expect.size());
    assert!(bool::try_from(found.isfinite().all()).unwrap(), "not a number");
    let (found, expect) =
        (found.detach().to_device(Device::Cpu).to_kind(Kind::Double), expect.to_kind(Kind::Double));
    let largest = expect.abs().max().double_value(&[]);
    (found - expect).abs().max().double_value(&[]) / largest.max(f64::MIN_POSITIVE)
}

/// The numbers of a tensor.
pub(crate) fn read(tensor: &Tensor) -> Vec<f32> {
    Vec::try_from(tensor.detach().to_device(Device::Cpu).to_kind(Kind::Float).flatten(0, -1)).unwrap()
}
