"""A PyTorch contender of run.py: some steps on one batch; prints what they took as JSON.

The model is tests/parity/beit.py; with --dvae the tokens of 112 px views are computed inside the step by the tokenizer that the reference
runs there: DALL-E's encoder at full size, in f32, without gradients.
"""
import argparse
import json
import os
import resource
import statistics
import sys
import time

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "tests", "parity"))
import beit  # noqa: E402

MODELS = {"base": beit.BASE, "large": beit.LARGE, "tiny": dict(beit.BASE, width=96, depth=3, heads=3)}


class EncoderBlock(nn.Module):
    """x + (1/64)·branch(x); the branch is three 3×3 convolutions and a 1×1, each after a ReLU."""

    def __init__(self, width, out):
        super().__init__()
        middle = out // 4
        self.same = nn.Identity() if width == out else nn.Conv2d(width, out, 1)
        sizes = [(width, middle, 3), (middle, middle, 3), (middle, middle, 3), (middle, out, 1)]
        self.branch = nn.Sequential(*(
            layer for a, b, k in sizes for layer in (nn.ReLU(), nn.Conv2d(a, b, k, padding=(k - 1) // 2))
        ))

    def forward(self, x):
        return self.same(x) + self.branch(x) / 64


def encoder():
    """DALL-E's encoder: [B, 3, 112, 112] → [B, 8192, 14, 14]; 53,786,240 parameters."""
    layers, width = [nn.Conv2d(3, 256, 7, padding=3)], 256
    for group, out in enumerate((256, 512, 1024, 2048)):
        layers += [EncoderBlock(width, out), EncoderBlock(out, out)] + ([nn.MaxPool2d(2)] if group < 3 else [])
        width = out
    model = nn.Sequential(*layers, nn.ReLU(), nn.Conv2d(2048, 8192, 1)).eval()
    assert sum(parameter.numel() for parameter in model.parameters()) == 53_786_240
    return model


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", choices=MODELS, required=True), parser.add_argument("--batch", required=True)
    parser.add_argument("--attention", choices=("explicit", "sdpa"), required=True), parser.add_argument("--dvae", action="store_true")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True), parser.add_argument("--warmup", type=int, required=True)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    model = beit.Beit(MODELS[args.model], sdpa=args.attention == "sdpa")
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.0108)  # about the reference's
    tokenizer = encoder() if args.dvae else None
    optimizer = torch.optim.AdamW(beit.groups(model, 0.05), lr=1e-6, betas=(0.9, 0.999), eps=1e-8)
    batch = load_file(args.batch)
    pixels, mask, labels = batch["pixels"], batch["mask"].bool(), batch["labels"]
    views = F.interpolate(pixels, size=112, mode="area") * 0.4 + 0.5  # into the dVAE's range, 0.1 to 0.9
    seconds, cpu_seconds = [], []
    for step in range(args.warmup + args.steps):
        began, cpu = time.perf_counter(), time.process_time()
        if tokenizer is not None:
            with torch.no_grad():
                labels = tokenizer(views).argmax(1).flatten(1)[mask]
        loss = F.cross_entropy(model(pixels, mask), labels)
        number = loss.item()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        beit.clip(list(model.parameters()), 3.0)
        optimizer.step()
        if step >= args.warmup:
            seconds.append(time.perf_counter() - began)
            cpu_seconds.append(time.process_time() - cpu)
    print(json.dumps(dict(step=dict(
        seconds=statistics.median(seconds), cpu_seconds=statistics.median(cpu_seconds), each_seconds=seconds,
        each_cpu_seconds=cpu_seconds, loss=number, peak_rss_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    ))))


main()
