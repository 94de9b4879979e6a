#!/usr/bin/env python3
"""Makes the golden files beside it: python3 make.py   (needs torch 2.13.0, numpy, safetensors).

abs-pos.safetensors    a small BEiT with absolute positions, without relative bias and layer scale, in plain PyTorch:
                       weights, one forward and backward, and six steps of AdamW with clipping and both schedules
schedules.safetensors  learning rates and weight decays of whole short runs, by NumPy's own linspace
"""
import math
import os

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

HERE = os.path.dirname(os.path.abspath(__file__))
IMAGE, PATCH, WIDTH, DEPTH, HEADS, RATIO, VOCAB, EPS = 40, 8, 24, 2, 3, 2, 40, 1e-5


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.q_bias = nn.Parameter(torch.zeros(WIDTH))
        self.v_bias = nn.Parameter(torch.zeros(WIDTH))
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.proj = nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        batch, positions, _ = x.shape
        bias = torch.cat([self.q_bias, torch.zeros_like(self.v_bias), self.v_bias])
        qkv = F.linear(x, self.qkv.weight, bias).reshape(batch, positions, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0] * (WIDTH // HEADS) ** -0.5, qkv[1], qkv[2]
        mixed = (q @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.proj(mixed.transpose(1, 2).reshape(batch, positions, -1))


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(WIDTH, RATIO * WIDTH)
        self.fc2 = nn.Linear(RATIO * WIDTH, WIDTH)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1 = nn.LayerNorm(WIDTH, eps=EPS)
        self.attn = Attention()
        self.norm2 = nn.LayerNorm(WIDTH, eps=EPS)
        self.mlp = Mlp()

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
    def __init__(self):
        super().__init__()
        self.proj = nn.Conv2d(3, WIDTH, PATCH, PATCH)

    def forward(self, x):
        return self.proj(x).flatten(2).transpose(1, 2)


class Beit(nn.Module):
    def __init__(self):
        super().__init__()
        patches = (IMAGE // PATCH) ** 2
        self.cls_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.mask_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.pos_embed = nn.Parameter(torch.zeros(1, patches + 1, WIDTH))
        self.patch_embed = PatchEmbed()
        self.blocks = nn.ModuleList(Block() for _ in range(DEPTH))
        self.norm = nn.LayerNorm(WIDTH, eps=EPS)
        self.lm_head = nn.Linear(WIDTH, VOCAB)

    def forward(self, pixels, mask):
        x = self.patch_embed(pixels)
        w = mask.unsqueeze(-1).to(x.dtype)
        x = x * (1 - w) + self.mask_token * w
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.lm_head(self.norm(x)[:, 1:][mask])


def schedule(peak, end, total, warmup):
    """The reference's formula: NumPy's linspace, then half a cosine."""
    up = np.linspace(0, peak, warmup) if warmup > 0 else np.array([])
    left = np.arange(total - warmup)
    down = np.array([end + 0.5 * (peak - end) * (1 + math.cos(math.pi * i / len(left))) for i in left])
    values = np.concatenate((up, down))
    assert len(values) == total
    return values


def exempt(name, parameter):
    return parameter.ndim == 1 or name.endswith(".bias") or name in ("pos_embed", "cls_token")


def abs_pos():
    torch.manual_seed(11)
    torch.set_num_threads(1)
    model = Beit()
    with torch.no_grad():  # nothing at 0 or 1, so that everything matters
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.15 + (1.0 if parameter.ndim == 1 else 0.0) * 0.1)
    pixels = torch.randn(3, 3, IMAGE, IMAGE)
    mask = torch.rand(3, (IMAGE // PATCH) ** 2) < 0.4
    labels = torch.randint(0, VOCAB, (int(mask.sum()),))
    out = {"w." + k: v.detach().clone() for k, v in model.state_dict().items()}
    logits = model(pixels, mask)
    loss = F.cross_entropy(logits, labels)
    loss.backward()
    out |= {"input": pixels, "mask": mask.to(torch.uint8), "labels": labels, "logits": logits.detach(), "loss": loss.detach().reshape(1)}
    out |= {"grad." + k: p.grad.clone() for k, p in model.named_parameters()}

    steps, clip = 6, 0.35
    lrs, decays = schedule(5e-3, 1e-4, steps, 2), schedule(0.05, 0.2, steps, 0)
    named = list(model.named_parameters())
    groups = [
        {"params": [p for n, p in named if exempt(n, p)], "weight_decay": 0.0},
        {"params": [p for n, p in named if not exempt(n, p)], "weight_decay": 0.05},
    ]
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98), eps=1e-8, foreach=False, fused=False)
    losses, norms = [], []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lrs[step]
            if group["weight_decay"] > 0:
                group["weight_decay"] = decays[step]
        loss = F.cross_entropy(model(pixels, mask), labels)
        optimizer.zero_grad()
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), clip))
        optimizer.step()
        losses.append(loss.detach())
    assert min(norms) < clip < max(norms), norms  # clipping both acts and rests
    out |= {"final." + k: v.detach().clone() for k, v in model.state_dict().items()}
    out |= {"losses": torch.stack(losses), "norms": torch.stack(norms)}
    save_file({k: v.contiguous() for k, v in out.items()}, os.path.join(HERE, "abs-pos.safetensors"))
    print("loss", losses, "norm", norms)


def schedules():
    # name: peak, end, total, warmup
    runs = {
        "usual": (1.5e-3, 1e-5, 300, 40),
        "no_warmup": (5e-4, 1e-5, 37, 0),
        "warmup_of_one": (1.5e-3, 1e-5, 20, 1),
        "warmup_of_two": (1.5e-3, 1e-5, 20, 2),
        "warmup_only": (2e-3, 1e-6, 17, 17),
        "rising_decay": (0.05, 0.2, 101, 0),
        "constant_decay": (0.05, 0.05, 50, 0),
        "single_step": (1e-3, 1e-5, 1, 0),
    }
    save_file({k: torch.from_numpy(schedule(*v)) for k, v in runs.items()}, os.path.join(HERE, "schedules.safetensors"))


abs_pos()
schedules()
