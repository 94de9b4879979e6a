use super::*;
use beit_torchfile::{Safetensors, read_safetensors};

use crate::device::Device;
use crate::plan::Ask;
use crate::ranks::World;
use crate::recipe::Recipe;
use crate::testing::{RECIPE, write_shards};

fn i64s(tensor: &Tensor) -> Vec<i64> {
    let bytes = tensor.to_contiguous();
    bytes.chunks_exact(8).map(|eight| i64::from_le_bytes(eight.try_into().unwrap())).collect()
}

#[test]
fn files_hold_what_a_run_sees_from_whatever_step() {
    let folder = tempfile::tempdir().unwrap();
    let shards = folder.path().join("a.shards");
    write_shards(&shards, 24, 1, "one");
    let mut recipe = Recipe::default();
    RECIPE.iter().chain(&["update_freq=2"]).for_each(|setting| recipe.apply(setting).unwrap());
    let world = World::inside(2);
    let (run, recipe_name) = (folder.path().join("a.run"), "tiny".to_owned());
    let plan =
        Plan::new(Ask { recipe_name, recipe, shards, run, world, device: Device::Cpu, resume_anyway: false })
            .unwrap();

    let (whole, late) = (folder.path().join("whole"), folder.path().join("late"));
    let written = write(&plan, 0..3, &whole).unwrap();
    assert_eq!(written.files, 6);
    write(&plan, 2..3, &late).unwrap();
    let open = |folder: &Path, name: &str| -> Safetensors { read_safetensors(folder.join(name)).unwrap() };
    let name = "step-00000002.rank-0001.safetensors";
    let batch = open(&whole, name);
    assert!(batch == open(&late, name), "the same step by another way");
    assert_eq!((batch.metadata["step"].as_str(), batch.metadata["rank"].as_str()), ("2", "1"));

    let get = |name: &str| batch.get(name).unwrap();
    assert_eq!(get("pixels").shape(), [8, 3, 32, 32]);
    let (mask, tokens) = (get("mask").to_contiguous(), i64s(get("tokens")));
    assert_eq!((mask.len(), tokens.len(), get("ids").shape()), (8 * 16, 8 * 16, &[8][..]));
    let hidden: Vec<i64> =
        tokens.iter().zip(mask.iter()).filter(|(_, flag)| **flag != 0).map(|(token, _)| *token).collect();
    assert_eq!(i64s(get("labels")), hidden);
    let kept: Plan = serde_json::from_slice(&std::fs::read(whole.join("plan.json")).unwrap()).unwrap();
    assert_eq!(kept, plan);

    let error = write(&plan, 3..3, &late).unwrap_err().to_string();
    assert!(error.contains("no step from 3 up to 3"), "{error}");
}
