#!/usr/bin/env python3
"""Counts the model's floating-point operations with PyTorch's own counter, beside what `beit-train plan` says.

    flops.py [PLAN.json]      PLAN.json: the output of `beit-train plan --json` and of `beit-train batches` (plan.json)

Prints the forward and the step of base and large (two images, 75 hidden patches in each), which trainer/src/model/flops.rs holds in
a test, and of PLAN.json's own model. Needs torch.
"""
import json
import sys

import torch
from torch.utils.flop_counter import FlopCounterMode

import beit


def count(config, images, hidden):
    """Forward, and forward with backward; nothing is computed, as tensors are on the meta device."""
    with torch.device("meta"):
        model = beit.Beit(dict(config, drop_path=0.0))
        pixels = torch.empty(images, 3, config["image_px"], config["image_px"])
        x = torch.empty(images, (config["image_px"] // config["patch_px"]) ** 2, dtype=torch.bool)
        # A mask's rows are not known on the meta device, so they are picked by their number.
        rows = torch.zeros(images * hidden, dtype=torch.long)

        def forward():
            features = model.patch_embed(pixels)
            features = torch.where(x[..., None], model.mask_token, features)
            features = torch.cat([model.cls_token.expand(images, -1, -1), features], 1)
            bias = model.rel_pos_bias() if model.rel_pos_bias is not None else None
            for block in model.blocks:
                features = block(features, bias)
            return model.lm_head(model.norm(features)[:, 1:].flatten(0, 1).index_select(0, rows))

        with FlopCounterMode(display=False) as forwards:
            forward()
        with FlopCounterMode(display=False) as both:
            forward().sum().backward()
    return forwards.get_total_flops(), both.get_total_flops()


def main():
    for name, config in (("base", beit.BASE), ("large", beit.LARGE)):
        print(name, *count(config, 2, 75))
    if len(sys.argv) > 1:
        with open(sys.argv[1]) as file:
            plan = json.load(file)
        config, hidden = plan["model"], plan["recipe"]["num_mask_patches"]
        _, one = count(config, 1, hidden)
        print(f"{sys.argv[1]}: {one * plan['global_batch'] / 1e12:.6f} TFLOP per step of {plan['global_batch']} images")


main()
