use std::process::Command;
use std::sync::Arc;

use beit_torchfile::{
    Dict, Dtype, Global, Storage, Tensor, Value, read_safetensors, save_pth, write_safetensors,
};

use crate::{data, golden};

/// What Python must find: every type and layout, shared storages, and plain values of every kind.
const SCRIPT: &str = r#"
import sys, torch
from collections import OrderedDict
from safetensors.torch import load_file
pth, ours, tricky, original, again = sys.argv[1:]

root = torch.load(pth, weights_only=True)
expected = load_file(tricky)
def same(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.contiguous().view(torch.uint8) if a.numel() and a.dim() else a, b.contiguous().view(torch.uint8) if b.numel() and b.dim() else b)
assert isinstance(root["model"], OrderedDict) and list(root["model"]) == sorted(expected), list(root["model"])
for name, tensor in expected.items():
    assert same(root["model"][name], tensor), name
assert root["model"]._metadata == {"": {"version": 1}}
assert root["view"].stride() == (1, 3) and root["view"].storage_offset() == 1
assert root["view"].untyped_storage().data_ptr() == root["same"].untyped_storage().data_ptr()
assert root["view"].tolist() == [[1.0, 4.0], [2.0, 5.0], [3.0, 6.0]]
values = root["values"]
assert values == [None, True, False, 0, 255, 256, 65535, 65536, -1, 2**31, -2**63, 2**63 - 1, 2**70, 0.1, "größer", b"\x00\xff",
                  (1, (2,)), {}, {1: "one", ("a", 2): []}, {3}, torch.bfloat16], values

theirs, back = load_file(tricky), load_file(ours)
assert theirs.keys() == back.keys() and all(same(theirs[n], back[n]) for n in theirs)

a, b = (torch.load(path, weights_only=True)["model"] for path in (original, again))
assert list(a) == list(b) and all(same(a[n], b[n]) for n in a)
print("equal")
"#;

#[test]
fn python_reads_what_we_write() {
    let Some(python) = std::env::var_os("BEIT_PYTHON") else {
        println!("skipped: set BEIT_PYTHON to a python that has torch and safetensors");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let tricky = read_safetensors(data("tricky.safetensors")).unwrap();
    let Value::Dict(model) = Value::state_dict(tricky.tensors.clone()) else { unreachable!() };
    let attributes =
        Value::dict([("_metadata", Value::dict([("", Value::dict([("version", Value::Int(1))]))]))]);
    let model = Value::Dict(Arc::new(Dict { attributes, ..Dict::clone(&model) }));

    let numbers: Vec<u8> = (0u8..8).flat_map(|i| f32::from(i).to_le_bytes()).collect();
    let storage = Storage::new(numbers);
    let view = Tensor::view(Dtype::F32, &[3, 2], &[1, 3], 1, storage.clone()).unwrap();
    let same = Tensor::view(Dtype::F32, &[8], &[1], 0, storage).unwrap();

    let ints = [0, 255, 256, 65535, 65536, -1, 1 << 31, i64::MIN, i64::MAX].map(Value::Int);
    let mut values = vec![Value::None, Value::Bool(true), Value::Bool(false)];
    values.extend(ints);
    let pair = Value::Tuple([Value::from("a"), Value::Int(2)].into());
    let entries = vec![(Value::Int(1), Value::from("one")), (pair, Value::list([]))];
    values.extend([
        Value::BigInt([0, 0, 0, 0, 0, 0, 0, 0, 64].as_slice().into()),
        Value::Float(0.1),
        Value::from("größer"),
        Value::Bytes([0, 255].as_slice().into()),
        Value::Tuple([Value::Int(1), Value::Tuple([Value::Int(2)].into())].into()),
        Value::dict::<&str>([]),
        Value::Dict(Arc::new(Dict { entries, is_ordered: false, attributes: Value::None })),
        Value::Set([Value::Int(3)].into()),
        Value::Global(Arc::new(Global { module: "torch".into(), name: "bfloat16".into() })),
    ]);
    let root = Value::dict([
        ("model", model),
        ("view", view.into()),
        ("same", same.into()),
        ("values", Value::list(values)),
    ]);
    let path = |name: &str| folder.path().join(name);
    save_pth(path("ours.pth"), &root).unwrap();
    let tensors = tricky.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor));
    write_safetensors(path("ours.safetensors"), tensors, &tricky.metadata).unwrap();

    let original = golden("beit-tiny/pretrain.pth");
    let checkpoint = beit_torchfile::state_dict(&original, &["model"]).unwrap();
    save_pth(path("again.pth"), &Value::dict([("model", Value::state_dict(checkpoint))])).unwrap();

    let output = Command::new(python)
        .args(["-c", SCRIPT])
        .args([
            path("ours.pth"),
            path("ours.safetensors"),
            data("tricky.safetensors"),
            original,
            path("again.pth"),
        ])
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.contains("equal"), "{out}{err}");
}
