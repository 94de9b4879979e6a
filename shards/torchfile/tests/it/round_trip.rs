use std::collections::BTreeMap;

use beit_torchfile::{
    Dtype, Error, Limits, Storage, Tensor, TorchFile, Value, parse_safetensors, pth_bytes, read_safetensors,
    safetensors_bytes, save_pth, state_dict, write_safetensors,
};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::select;

use crate::golden;

fn parse(bytes: Vec<u8>) -> Value {
    TorchFile::parse("x.pth", bytes, &Limits::default()).unwrap().root
}

/// Tensors of every type and many layouts: up to three dimensions, any order of strides, gaps, an offset.
fn tensor() -> impl Strategy<Value = Tensor> {
    let shape = vec(0usize..5, 0..4);
    (select(&Dtype::ALL[..]), shape, 0usize..3, 1usize..3, any::<bool>(), any::<u64>()).prop_map(
        |(dtype, shape, offset, gap, swap, seed)| {
            let mut order: Vec<usize> = (0..shape.len()).collect();
            if swap {
                order.reverse();
            }
            let mut strides = vec![0; shape.len()];
            let mut elements = gap;
            for &dim in order.iter().rev() {
                strides[dim] = elements;
                elements *= shape[dim].max(1);
            }
            let mut state = seed;
            let bytes = (0..(offset + elements) * dtype.size()).map(|_| {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (state >> 56) as u8
            });
            let storage = Storage::new(bytes.collect::<Vec<u8>>());
            Tensor::view(dtype, &shape, &strides, offset, storage).unwrap()
        },
    )
}

fn leaf() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::None),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-300i64..70_000).prop_map(Value::from),
        (-1e300..1e300).prop_map(Value::from),
        ".{0,20}".prop_map(Value::from),
        vec(any::<u8>(), 0..20).prop_map(|bytes| Value::Bytes(bytes.into())),
        tensor().prop_map(Value::from),
    ]
}

fn tree() -> impl Strategy<Value = Value> {
    leaf().prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(Value::list),
            vec(inner.clone(), 0..6).prop_map(|items| Value::Tuple(items.into())),
            btree_map(".{0,8}", inner, 0..6).prop_map(Value::dict),
            btree_map(".{0,8}", tensor(), 0..6).prop_map(Value::state_dict),
            btree_map(any::<i64>(), leaf(), 0..3).prop_map(|entries| {
                let entries = entries.into_iter().map(|(key, value)| (Value::Int(key), value)).collect();
                Value::Dict(std::sync::Arc::new(beit_torchfile::Dict {
                    entries,
                    is_ordered: false,
                    attributes: Value::None,
                }))
            }),
        ]
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(root in tree()) {
        let bytes = pth_bytes("x.pth", &root).unwrap();
        prop_assert_eq!(&bytes, &pth_bytes("x.pth", &root).unwrap());
        prop_assert_eq!(parse(bytes), root);
    }

    #[test]
    fn layouts_survive_the_trip(tensor in tensor()) {
        let root = parse(pth_bytes("x.pth", &Value::from(tensor.clone())).unwrap());
        let back = root.as_tensor().unwrap();
        if tensor.numel() > 0 {
            prop_assert_eq!((back.strides(), back.offset()), (tensor.strides(), tensor.offset()));
            prop_assert_eq!(back.storage().bytes(), tensor.storage().bytes());
        }
        prop_assert_eq!(back, &tensor);
    }

    #[test]
    fn safetensors_are_read_back(
        tensors in btree_map(".{0,8}", tensor(), 0..6),
        metadata in btree_map(".{0,8}", ".{0,20}", 0..4),
    ) {
        let bytes = safetensors_bytes("x", tensors.iter().map(|(n, t)| (n.as_str(), t)), &metadata).unwrap();
        let file = parse_safetensors("x", bytes).unwrap();
        prop_assert_eq!(file.tensors, tensors.into_iter().collect::<Vec<_>>());
        prop_assert_eq!(file.metadata, metadata);
    }
}

#[test]
fn tensors_that_share_a_storage_share_it_in_the_file() {
    let storage = Storage::new(vec![7u8; 40_000]);
    let view = |offset| Tensor::view(Dtype::F32, &[100], &[1], offset, storage.clone()).unwrap();
    let root = Value::state_dict([("a", view(0)), ("b", view(100)), ("c", view(9900))]);
    let bytes = pth_bytes("x.pth", &root).unwrap();
    assert!(bytes.len() < 45_000, "{}", bytes.len());
    let back = parse(bytes);
    let get = |name| back.get(name).unwrap().as_tensor().unwrap();
    assert!(get("a").storage().is(get("c").storage()));
    assert_eq!(get("c").offset(), 9900);
}

#[test]
fn storages_lie_on_64_byte_borders_as_torch_puts_them() {
    let tensors = (0..5).map(|i| (format!("t{i}"), Tensor::from_f32(&[i], &vec![f32::NAN; i]).unwrap()));
    let bytes = pth_bytes("x.pth", &Value::state_dict(tensors)).unwrap();
    let mut archive = zip::ZipArchive::new(std::io::Cursor::new(bytes)).unwrap();
    for i in 0..archive.len() {
        let entry = archive.by_index(i).unwrap();
        assert_eq!(entry.data_start().unwrap() % 64, 0, "{}", entry.name().unwrap());
    }
    assert!(archive.index_for_name("archive/.data/serialization_id").is_some());
}

#[test]
fn a_checkpoint_of_python_survives_our_hands() {
    let folder = tempfile::tempdir().unwrap();
    let tensors = state_dict(golden("beit-tiny/pretrain.pth"), &["model"]).unwrap();

    let pth = folder.path().join("again.pth");
    save_pth(&pth, &Value::dict([("model", Value::state_dict(tensors.clone()))])).unwrap();
    assert_eq!(state_dict(&pth, &["model"]).unwrap(), tensors);

    let safetensors = folder.path().join("again.safetensors");
    let metadata = BTreeMap::from([("name".to_owned(), "tiny".to_owned()), ("b".into(), "c".into())]);
    write_safetensors(&safetensors, tensors.iter().map(|(n, t)| (n.as_str(), t)), &metadata).unwrap();
    let back = read_safetensors(&safetensors).unwrap();
    assert_eq!(back.metadata, metadata);
    assert_eq!(back.tensors.len(), tensors.len());
    for (name, tensor) in &tensors {
        assert_eq!(back.get(name), Some(tensor), "{name}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "no temporary stays");
}

#[test]
fn a_failed_write_leaves_the_old_file_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    let tensor = Tensor::from_f32(&[1], &[1.0]).unwrap();
    write_safetensors(&path, [("a", &tensor)], &BTreeMap::new()).unwrap();
    let before = std::fs::read(&path).unwrap();

    let error = write_safetensors(&path, [("a", &tensor), ("a", &tensor)], &BTreeMap::new()).unwrap_err();
    assert!(error.to_string().contains("cannot write a tensor name that is taken at a"), "{error}");
    let into_nowhere = write_safetensors(folder.path().join("no/x"), [("a", &tensor)], &BTreeMap::new());
    assert!(matches!(into_nowhere, Err(Error::Io { .. })));
    // The rename itself fails: a folder is in the way.
    std::fs::create_dir_all(folder.path().join("taken/by")).unwrap();
    let onto_folder = save_pth(folder.path().join("taken"), &Value::Int(1));
    assert!(onto_folder.unwrap_err().to_string().contains("renaming the finished file"));

    assert_eq!(std::fs::read(&path).unwrap(), before);
    let mut names: Vec<_> =
        std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["taken", "x.safetensors"]);
}

#[test]
fn what_python_would_not_load_is_not_written() {
    let root = TorchFile::open(crate::data("tricky.pth")).unwrap().root;
    let error = pth_bytes("x.pth", &root).unwrap_err().to_string();
    assert!(error.contains("cannot write an instance of argparse.Namespace at args"), "{error}");
    let mut deep = Value::Int(1);
    for _ in 0..400 {
        deep = Value::list([deep]);
    }
    assert!(pth_bytes("x.pth", &deep).unwrap_err().to_string().contains("a tree this deep"));
}
