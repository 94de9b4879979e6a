"""Makes the files beside it. Run with torch 2.13.0, numpy and safetensors: python make.py

`tricky.*` hold every layout, element type and harmless class that a checkpoint may have; `tricky.safetensors` holds the
same tensors written out plainly. `module.*` are whole modules. The rest are files that must be refused.
"""
import argparse, collections, io, os, pathlib, pickle, struct, zipfile

import numpy as np
import torch
from safetensors.torch import save_file

os.chdir(pathlib.Path(__file__).parent)
torch.manual_seed(7)

base = torch.arange(24, dtype=torch.float32)
grid = base.reshape(4, 6)
tensors = {
    "transposed": grid.t(),
    "channels_last": torch.randn(2, 3, 2, 2).to(memory_format=torch.channels_last),
    "shared_all": base,
    "shared_row": grid[2],
    "shared_column": grid[:, 3],
    "shared_every_other": base[1::2],
    "expanded": torch.tensor([5.0, 6.0]).expand(3, 2),
    "scalar": torch.tensor(2.5),
    "empty": torch.empty(0),
    "empty_sides": torch.empty(3, 0, 2),
    "parameter": torch.nn.Parameter(torch.randn(2, 2)),
    "bfloat16": torch.tensor([1.5, -3.0e38, 1e-40]).bfloat16(),
    "float16": torch.tensor([1.5, -65504.0, 6e-8]).half(),
    "float64": torch.tensor([0.1, 1e300, float("nan")], dtype=torch.float64),
    "bool": torch.tensor([[True, False], [False, True]]).t(),
    "int8": torch.tensor([-128, 127], dtype=torch.int8),
    "int16": torch.tensor([-32768, 32767], dtype=torch.int16),
    "int32": torch.tensor([-(2**31), 2**31 - 1], dtype=torch.int32),
    "int64": torch.tensor([-(2**63), 2**63 - 1], dtype=torch.int64),
    "uint8": torch.tensor([0, 255], dtype=torch.uint8),
}
unsigned = {
    "uint16": torch.tensor([[0, 65535, 7], [1, 2, 3]], dtype=torch.uint16)[:, 1:],
    "uint32": torch.tensor([0, 2**32 - 1], dtype=torch.uint32),
    "uint64": torch.tensor([0, 2**63], dtype=torch.uint64),
}
with_state = torch.nn.Parameter(torch.randn(3))
with_state.note = "kept"
tree = {
    "model": collections.OrderedDict(tensors),
    "args": argparse.Namespace(lr=1.5e-3, model="beit", betas=[0.9, 0.999], output_dir=pathlib.PurePosixPath("out/x"), clip=None),
    "epoch": 7,
    "best": "best",
    "huge": 2**70,
    "minus_huge": -(2**63),
    "just_over": 2**63,
    "pi": 3.25,
    "flags": {True, },
    "names": {"a"},
    "raw": b"\x00\xff\x80z",
    "nested": [1, (2, [3, {"four": (5,)}])],
    "optimizer": {"state": {0: {"step": torch.tensor(3.0)}, 1: {"step": torch.tensor(4.0)}}, "param_groups": [{"params": [0, 1]}]},
    "size": torch.Size([2, 3]),
    "device": torch.device("cpu"),
    "dtype": torch.float16,
    "accuracy": np.float64(81.25),
    "defaults": collections.defaultdict(int, {"x": 1}),
    "with_state": with_state,
    "unicode": "größer → ✓",
    "text2": "x" * 300,
}
tree["again"] = tree["nested"]

plain = {name: tensor.detach().contiguous().clone() for name, tensor in (tensors | unsigned).items()}
save_file(plain, "tricky.safetensors", metadata={"made by": "make.py", "and": "\"quotes\" \\ ünïcode"})
torch.save(tree | {"unsigned": unsigned}, "tricky.pth")
torch.save(tree | {"unsigned": unsigned}, "tricky.protocol4.pth", pickle_protocol=4)
torch.save(tree, "tricky.legacy.pth", _use_new_zipfile_serialization=False)
torch.save(collections.OrderedDict(tensors), "flat.legacy.protocol5.pth", _use_new_zipfile_serialization=False, pickle_protocol=5)

net = torch.nn.Sequential(collections.OrderedDict(
    stem=torch.nn.Conv2d(1, 2, 3), norm=torch.nn.BatchNorm2d(2), act=torch.nn.GELU(),
    head=torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(2, 3, bias=False))))
net.norm.register_buffer("passing", torch.ones(1), persistent=False)
net.head[1].tied = net.stem
torch.save(net, "module.pkl")
# The older container carries each class's source file; a stand-in keeps it short and free of this machine's paths.
torch.serialization.get_source_lines_and_file = lambda obj, *_: ([f"class {obj.__name__}: ...\n"], 0, "module.py")
torch.save(net, "module.legacy.pkl", _use_new_zipfile_serialization=False)
save_file({"module." + k: v.clone() for k, v in net.state_dict().items()}, "module.safetensors")


class Legacy(pickle.Pickler):
    """The older container by hand, so that storages can be views, as torch wrote them up to 1.5."""

    def persistent_id(self, obj):
        return obj.pid if isinstance(obj, Storage) else None


class Storage:
    def __init__(self, *pid):
        self.pid = pid


class Rebuilt:
    def __init__(self, *args):
        self.args = args

    def __reduce__(self):
        return torch._utils._rebuild_tensor_v2, self.args


def legacy(path, obj, storages, little=True):
    with open(path, "wb") as out:
        for part in (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": little, "type_sizes": {}}):
            pickle.dump(part, out, protocol=2)
        Legacy(out, protocol=2).dump(obj)
        pickle.dump([key for key, _ in storages], out, protocol=2)
        for _, numbers in storages:
            out.write(struct.pack("<q", len(numbers)) + struct.pack(f"<{len(numbers)}f", *numbers))


def view(first, length, offset, size, stride):
    storage = Storage("storage", torch.FloatStorage, "root", "cpu", 12, ("view%d" % first, first, length))
    return Rebuilt(storage, offset, size, stride, False, collections.OrderedDict())


numbers = [float(i) for i in range(12)]
legacy("views.legacy.pth", {"head": view(0, 4, 1, (3,), (1,)), "tail": view(6, 6, 0, (3, 2), (1, 3))}, [("root", numbers)])
legacy("big_endian.legacy.pth", {"x": view(0, 4, 0, (4,), (1,))}, [("root", numbers)], little=False)
legacy("outside.legacy.pth", {"x": view(6, 7, 0, (1,), (1,))}, [("root", numbers)])


class Evil:
    def __reduce__(self):
        return os.system, ("touch pwned",)


torch.save({"model": Evil()}, "evil.pth")
torch.save({"model": Evil()}, "evil.legacy.pth", _use_new_zipfile_serialization=False)
pickle.dump({"x": 1}, open("plain.pkl", "wb"), protocol=2)
torch.jit.script(torch.nn.Linear(1, 1)).save("script.pt")

source = io.BytesIO()
torch.save({"x": torch.zeros(40)}, source)


def repack(path, compression=zipfile.ZIP_STORED, change=lambda name, data: data):
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w", compression) as new:
        for entry in old.infolist():
            data = change(entry.filename, old.read(entry))
            if data is not None:
                new.writestr(zipfile.ZipInfo(entry.filename), data, compression)


repack("compressed.pth", zipfile.ZIP_DEFLATED)
repack("big_endian.pth", change=lambda name, data: b"big" if name.endswith("byteorder") else data)
repack("missing_storage.pth", change=lambda name, data: None if name.endswith("data/0") else data)
repack("short_storage.pth", change=lambda name, data: data[:100] if name.endswith("data/0") else data)
