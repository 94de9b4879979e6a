#!/usr/bin/env python3
"""Compares what a set of shards holds with a Pillow + PyTorch pipeline that is fed the same views.

    compare_tokens.py SHARDS/ SOURCE/ TOKENIZER [--view K] [--images N] [--threads N]

Written from shards/format/FORMAT.md, the rules of `View::draw` and the reference's published order (jitter of the whole image,
flip, crop, 112 px Lanczos, dVAE); it shares no code with the workspace. For each record it draws view K anew (own Philox), renders
it with Pillow from the source file, encodes it with OpenAI's `dall_e` package, and compares the grey level of the contrast step
and the tokens with those in the shard. TOKENIZER: encoder.pkl (only open files you trust: Python executes them) or our .safetensors.

Needs from the package registry: torch, numpy, Pillow < 13, attrs, and dall-e (with --no-deps).
"""
import argparse
import glob
import json
import math
import os
import struct

import attr
import numpy as np
import PIL
import torch
from PIL import Image, ImageEnhance, ImageStat

STEPS = {"b": ImageEnhance.Brightness, "c": ImageEnhance.Contrast, "s": ImageEnhance.Color}
KERNELS = {"bilinear": Image.BILINEAR, "bicubic": Image.BICUBIC, "lanczos": Image.LANCZOS}


class Draws:
    """Philox 4x32-10; key = seed, counter = [stream, stream >> 32, index, purpose << 24 | block]."""

    def __init__(self, seed, stream, index, purpose=1):
        self.key = (seed & 0xFFFFFFFF, seed >> 32)
        self.stream, self.index, self.purpose = stream, index, purpose
        self.block, self.words = 0, []

    def u32(self):
        if not self.words:
            a, b, c, d = self.stream & 0xFFFFFFFF, self.stream >> 32, self.index, self.purpose << 24 | self.block
            k0, k1 = self.key
            for _ in range(10):
                x, y = a * 0xD2511F53, c * 0xCD9E8D57
                a, b, c, d = (y >> 32) ^ b ^ k0, y & 0xFFFFFFFF, (x >> 32) ^ d ^ k1, x & 0xFFFFFFFF
                k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
            self.words = [d, c, b, a]
            self.block += 1
        return self.words.pop()

    def unit(self):
        low = self.u32()
        return ((self.u32() << 32 | low) >> 11) / (1 << 53)

    def uniform(self, a, b):
        return a + (b - a) * self.unit()

    def below(self, n):
        threshold = (1 << 32) % n
        while True:
            product = self.u32() * n
            if product & 0xFFFFFFFF >= threshold:
                return product >> 32


def draw_view(spec, width, height, draws):
    strength = spec["color_jitter"]
    factors = [np.float32(draws.uniform(max(0, 1 - strength), 1 + strength)) if strength else 1.0 for _ in range(3)]
    order = [0, 1, 2]
    for last, n in [(2, 3), (1, 2)]:
        other = draws.below(n)
        order[last], order[other] = order[other], order[last]
    flip = draws.unit() < spec["flip"]
    low, high = spec["crop_ratio"]
    for _ in range(10):
        target = draws.uniform(*spec["crop_scale"]) * (width * height)
        aspect = math.exp(draws.uniform(math.log(low), math.log(high)))
        w, h = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
        if 1 <= w <= width and 1 <= h <= height:
            top = draws.below(height - h + 1)
            left = draws.below(width - w + 1)
            break
    else:
        w, h = width, height
        if width / height < low:
            h = min(max(round(width / low), 1), height)
        elif width / height > high:
            w = min(max(round(height * high), 1), width)
        left, top = (width - w) // 2, (height - h) // 2
    return [("bcs"[i], float(factors[i])) for i in order], flip, (left, top, left + w, top + h)


def parse_view_spec(line):
    words = line.split(" ")
    assert words[0] == "view-1", line
    spec = {}
    for word in words[1:]:
        key, value = word.split("=")
        if ".." in value:
            spec[key] = tuple(map(float, value.split("..")))
        else:
            spec[key] = value if value in KERNELS else float(value)
    return spec


def text(data, at):
    (count,) = struct.unpack_from("<I", data, at)
    return data[at + 4 : at + 4 + count].decode(), at + 4 + count


def records(shard, k):
    """(seed, view spec, vocab) and, for each record, (id, path, width, height, grey, tokens of view k)."""
    data = open(shard, "rb").read()
    footer_at, footer_len = struct.unpack_from("<QQ", data, len(data) - 48)
    footer = data[footer_at : footer_at + footer_len]
    count, index_at = struct.unpack_from("<Q8xQ", footer, 8)
    seed, views, rows, cols, vocab = struct.unpack_from("<QIHHI", footer, 140)
    _, at = text(footer, 192)
    view_spec, _ = text(footer, at)
    tokens = rows * cols
    bits = max(1, (vocab - 1).bit_length())
    frame_len = 1 + -(-tokens * bits // 8) + 8
    out = []
    for i in range(count):
        offset, length, id_ = struct.unpack_from("<QQQ", data, index_at + 32 * i)
        width, height = struct.unpack_from("<II", data, offset + 52)
        (path_len,) = struct.unpack_from("<I", data, offset + 64)
        path = data[offset + 72 : offset + 72 + path_len].decode()
        at = offset + length - (views - k) * frame_len
        string = int.from_bytes(data[at + 1 : at + frame_len - 8], "little")
        grid = [string >> (t * bits) & ((1 << bits) - 1) for t in range(tokens)]
        out.append((id_, path, width, height, data[at], grid))
    return (seed, view_spec, vocab), out


def encoder(path):
    from dall_e.encoder import Encoder

    if not path.endswith(".safetensors"):
        return torch.load(path, map_location="cpu", weights_only=False).float().eval()
    with open(path, "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        body = file.read()
    state = {}
    for name, entry in header.items():
        if name.startswith("encoder."):
            assert entry["dtype"] == "F32", name
            array = np.frombuffer(body, np.float32, offset=entry["data_offsets"][0], count=math.prod(entry["shape"]))
            state[name.removeprefix("encoder.")] = torch.from_numpy(array.reshape(entry["shape"]).copy())
    assert "blocks.group_4.block_1.res_path.conv_1.w" in state, "the dall_e package knows encoders of four groups only"
    blocks = len({name.split(".")[2] for name in state if name.startswith("blocks.group_1.")})
    hidden, vocab = state["blocks.input.w"].shape[0], state["blocks.output.conv.w"].shape[0]
    attr.validators.set_disabled(True)  # the package refuses fewer than 64 channels
    model = Encoder(
        n_hid=hidden, n_blk_per_group=blocks, input_channels=3, vocab_size=vocab,
        device=torch.device("cpu"), requires_grad=False, use_mixed_precision=False,
    )
    model.load_state_dict(state)
    return model.eval()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("shards"), parser.add_argument("source"), parser.add_argument("tokenizer")
    parser.add_argument("--view", type=int, default=0), parser.add_argument("--images", type=int)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_grad_enabled(False)
    model = encoder(args.tokenizer)
    seen = same = whole = greys = 0
    margins = []
    for shard in sorted(glob.glob(os.path.join(args.shards, "*.shard"))):
        (seed, line, vocab), rows = records(shard, args.view)
        spec = parse_view_spec(line)
        px, kernel = int(spec["token_px"]), KERNELS[spec["token_interpolation"]]
        for id_, path, width, height, grey, stored in rows[: args.images]:
            with open(os.path.join(args.source, path), "rb") as file:
                image = Image.open(file).convert("RGB")
            assert image.size == (width, height), path
            jitter, flip, box = draw_view(spec, width, height, Draws(seed, id_, args.view))
            for step, factor in jitter:
                if step == "c":
                    level = int(ImageStat.Stat(image.convert("L")).mean[0] + 0.5)
                    greys += level == grey
                image = STEPS[step](image).enhance(factor)
            if flip:
                image = image.transpose(Image.FLIP_LEFT_RIGHT)
            view = np.asarray(image.crop(box).resize((px, px), kernel))
            x = torch.from_numpy(view.copy()).permute(2, 0, 1)[None].float() / 255
            logits = model(0.8 * x + 0.1)[0].flatten(1)  # [V, N]
            best = logits.topk(2, dim=0)
            ours = torch.tensor(stored)
            equal = best.indices[0] == ours
            margins += (best.values[0] - best.values[1])[~equal].tolist()
            seen, same, whole = seen + len(stored), same + int(equal.sum()), whole + bool(equal.all())
    images = seen // max(len(stored), 1)
    print(json.dumps({
        "images": images, "tokens": seen, "equal_tokens": same, "match": same / seen, "images_with_every_token_equal": whole,
        "greys_equal": greys, "largest_margin_of_a_differing_token": max(margins, default=0.0),
        "vocab": vocab, "view": args.view, "Pillow": PIL.__version__, "torch": torch.__version__,
    }))


main()
