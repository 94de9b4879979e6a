use beit_torchfile::{Dtype, Limits, TorchFile, Value, read_safetensors, state_dict};

use crate::data;

/// Checks every tensor of a file against the plain copies; `unsigned` are the types that only the newer container has.
#[track_caller]
fn check(name: &str, unsigned: usize) {
    let file = TorchFile::open(data(name)).unwrap();
    let expected = read_safetensors(data("tricky.safetensors")).unwrap();
    let mut tensors = file.state_dict(&["model"]).unwrap();
    assert_eq!(tensors.len(), 20);
    if let Some(more) = file.root.get("unsigned").and_then(Value::as_dict) {
        tensors
            .extend(more.iter().map(|(name, value)| (name.to_owned(), value.as_tensor().unwrap().clone())));
    }
    assert_eq!(tensors.len(), 20 + unsigned);
    for (name, tensor) in &tensors {
        assert_eq!(Some(tensor), expected.get(name), "{name}");
    }
    let get = |wanted: &str| &tensors.iter().find(|(name, _)| name == wanted).unwrap().1;
    assert_eq!((get("transposed").shape(), get("transposed").strides()), (&[6, 4][..], &[1, 6][..]));
    assert_eq!((get("shared_every_other").offset(), get("shared_every_other").strides()), (1, &[2][..]));
    assert!(get("shared_row").storage().is(get("shared_all").storage()));
    assert!(get("shared_column").storage().is(get("transposed").storage()));
    assert!(!get("shared_column").storage().is(get("channels_last").storage()));
    assert!(get("scalar").shape().is_empty());
    assert_eq!(get("scalar").to_f32_vec(), [2.5]);
    assert_eq!(get("empty_sides").shape(), [3, 0, 2]);
    assert_eq!(get("bfloat16").dtype(), Dtype::BF16);
    assert_eq!(get("bfloat16").to_f32_vec()[0], 1.5);
    assert_eq!(get("float16").to_f32_vec()[1], -65504.0);
    assert_eq!(get("bool").to_i64_vec().unwrap(), [1, 0, 0, 1]);
    assert!(get("float64").to_f32_vec()[2].is_nan());
    assert_eq!(get("int64").to_i64_vec().unwrap(), [i64::MIN, i64::MAX]);
}

#[test]
fn every_layout_and_type_is_read_from_the_zip_container() {
    check("tricky.pth", 3);
}

#[test]
fn every_layout_and_type_is_read_from_protocol_4() {
    check("tricky.protocol4.pth", 3);
}

#[test]
fn every_layout_and_type_is_read_from_the_legacy_container() {
    check("tricky.legacy.pth", 0);
}

#[test]
fn a_flat_legacy_state_dict_in_protocol_5_is_read() {
    check("flat.legacy.protocol5.pth", 0);
}

#[test]
fn everything_around_the_tensors_is_kept_as_data() {
    for name in ["tricky.pth", "tricky.protocol4.pth", "tricky.legacy.pth"] {
        let root = TorchFile::open(data(name)).unwrap().root;
        let get = |name: &str| root.get(name).unwrap();

        let args = get("args").as_object().unwrap();
        assert_eq!(args.class.to_string(), "argparse.Namespace");
        assert_eq!(args.attr("lr"), Some(&Value::Float(1.5e-3)));
        assert_eq!(args.attr("clip"), Some(&Value::None));
        assert_eq!(args.attr("betas").unwrap().as_items().unwrap().len(), 2);
        let folder = args.attr("output_dir").unwrap().as_object().unwrap();
        assert_eq!(folder.class.name, "PurePosixPath");
        assert_eq!(folder.args.as_items().unwrap(), [Value::from("out"), Value::from("x")]);

        assert_eq!(get("epoch"), &Value::Int(7));
        assert_eq!(get("best").as_str(), Some("best"));
        assert_eq!(get("huge"), &Value::BigInt([0, 0, 0, 0, 0, 0, 0, 0, 64].as_slice().into()));
        assert_eq!(get("minus_huge"), &Value::Int(i64::MIN));
        assert_eq!(get("just_over"), &Value::BigInt([0, 0, 0, 0, 0, 0, 0, 128, 0].as_slice().into()));
        assert_eq!(get("pi").as_float(), Some(3.25));
        assert_eq!(get("flags"), &Value::Set([Value::Bool(true)].into()));
        assert_eq!(get("raw"), &Value::Bytes([0, 255, 128, b'z'].as_slice().into()));
        assert_eq!(get("nested"), get("again"));
        let optimizer = get("optimizer").get("state").unwrap().as_dict().unwrap();
        assert_eq!(optimizer.entries[1].0, Value::Int(1));
        assert_eq!(optimizer.entries[1].1.get("step").unwrap().as_tensor().unwrap().to_f32_vec(), [4.0]);
        assert_eq!(get("size"), &Value::Tuple([Value::Int(2), Value::Int(3)].into()));
        assert_eq!(get("device").as_object().unwrap().args.as_items().unwrap()[0].as_str(), Some("cpu"));
        let Value::Global(dtype) = get("dtype") else { panic!() };
        assert_eq!(dtype.to_string(), "torch.float16");
        assert_eq!(get("accuracy").as_object().unwrap().class.name, "scalar");
        assert_eq!(get("defaults").get("x"), Some(&Value::Int(1)));
        assert_eq!(get("with_state").as_tensor().unwrap().shape(), [3]);
        assert_eq!(get("unicode").as_str(), Some("größer → ✓"));
        assert_eq!(get("text2").as_str().unwrap().len(), 300);
    }
}

#[test]
fn a_module_gives_parameters_and_persistent_buffers() {
    let expected = read_safetensors(data("module.safetensors")).unwrap();
    for name in ["module.pkl", "module.legacy.pkl"] {
        let file = TorchFile::open(data(name)).unwrap();
        let tensors = file.state_dict(&[]).unwrap();
        assert_eq!(tensors.len(), expected.tensors.len());
        for (name, tensor) in &tensors {
            assert_eq!(Some(tensor), expected.get(&format!("module.{name}")), "{name}");
        }
        // "tied" is one module in two places, and Python's state_dict() names both.
        let names: Vec<&str> = tensors.iter().map(|(name, _)| name.as_str()).collect();
        assert!(names.contains(&"norm.running_var") && names.contains(&"head.1.tied.weight"), "{names:?}");
        assert!(!names.contains(&"norm.passing"));
        let parameters = file.root.as_object().unwrap().named_parameters(&file.path).unwrap();
        assert!(parameters.iter().all(|(name, _)| !name.contains("running")));
    }
}

#[test]
fn storage_views_of_old_files_are_read() {
    let tensors = state_dict(data("views.legacy.pth"), &[]).unwrap();
    assert_eq!(tensors[0].1.to_f32_vec(), [1.0, 2.0, 3.0]);
    assert_eq!(tensors[1].1.to_f32_vec(), [6.0, 9.0, 7.0, 10.0, 8.0, 11.0]);
}

#[test]
fn known_modules_widen_the_list() {
    let name = data("evil.pth");
    let limits = Limits { known_modules: vec!["posix".into()], ..Limits::default() };
    let root = TorchFile::open_with(name, &limits).unwrap().root;
    let object = root.get("model").unwrap().as_object().unwrap();
    assert_eq!(object.class.to_string(), "posix.system");
    assert_eq!(object.args.as_items().unwrap()[0].as_str(), Some("touch pwned"));
}

#[test]
fn safetensors_metadata_is_read() {
    let file = read_safetensors(data("tricky.safetensors")).unwrap();
    assert_eq!(file.metadata["made by"], "make.py");
    assert_eq!(file.metadata["and"], "\"quotes\" \\ ünïcode");
}
