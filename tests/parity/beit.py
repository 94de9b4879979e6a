"""BEiT's pre-training model, its loss, optimizer and schedules in plain PyTorch, to compare the trainer with.

Written from the published specification of the reference (arXiv:2106.08254; parameter names, formulas and order of operations of
`unilm/beit`): explicit attention with the bias added to the scaled scores, one parameter group without weight decay. Shares no code
with the workspace. Sizes come as the dictionary that `beit-train plan --json` has under `model`.
"""
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

BASE = dict(image_px=224, patch_px=16, width=768, depth=12, heads=12, mlp_ratio=4.0, vocab=8192, rel_pos_bias=True,
            abs_pos_emb=False, init_values=0.1, drop_path=0.0, eps=1e-6)
LARGE = dict(BASE, width=1024, depth=24, heads=16, init_values=1e-5)


def relative_position_index(side):
    """[T, T]: the row of the bias table for (query, key); the cls position comes first."""
    rows = torch.arange(side).repeat_interleave(side)
    cols = torch.arange(side).repeat(side)
    span = 2 * side - 1
    index = torch.empty(side * side + 1, side * side + 1, dtype=torch.long)
    index[1:, 1:] = (rows[:, None] - rows[None] + side - 1) * span + (cols[:, None] - cols[None] + side - 1)
    index[0, 1:], index[1:, 0], index[0, 0] = span * span, span * span + 1, span * span + 2
    return index


class Attention(nn.Module):
    def __init__(self, width, heads, sdpa):
        super().__init__()
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width)
        self.heads, self.sdpa = heads, sdpa

    def forward(self, x, bias):
        batch, positions, width = x.shape
        qkv_bias = torch.cat([self.q_bias, torch.zeros_like(self.v_bias), self.v_bias])
        qkv = F.linear(x, self.qkv.weight, qkv_bias).reshape(batch, positions, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]  # [B, H, T, K]
        if self.sdpa:
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        else:
            scores = (q * (width // self.heads) ** -0.5) @ k.transpose(-2, -1)  # [B, H, T, T]
            if bias is not None:
                scores = scores + bias
            mixed = scores.softmax(-1) @ v
        return self.proj(mixed.transpose(1, 2).reshape(batch, positions, width))


class Mlp(nn.Module):
    def __init__(self, width, middle):
        super().__init__()
        self.fc1 = nn.Linear(width, middle)
        self.fc2 = nn.Linear(middle, width)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, c, sdpa):
        super().__init__()
        width = c["width"]
        scaled = c["init_values"] > 0
        self.gamma_1 = nn.Parameter(torch.full((width,), c["init_values"])) if scaled else None
        self.gamma_2 = nn.Parameter(torch.full((width,), c["init_values"])) if scaled else None
        self.norm1 = nn.LayerNorm(width, eps=c["eps"])
        self.attn = Attention(width, c["heads"], sdpa)
        self.norm2 = nn.LayerNorm(width, eps=c["eps"])
        self.mlp = Mlp(width, int(width * c["mlp_ratio"]))

    def forward(self, x, bias):
        for gamma, branch in (
            (self.gamma_1, lambda x: self.attn(self.norm1(x), bias)),
            (self.gamma_2, lambda x: self.mlp(self.norm2(x))),
        ):
            x = x + (branch(x) if gamma is None else gamma * branch(x))
        return x


class SharedBias(nn.Module):
    def __init__(self, side, heads):
        super().__init__()
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * side - 1) ** 2 + 3, heads))
        self.register_buffer("relative_position_index", relative_position_index(side))

    def forward(self):
        return self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)[None]  # [1, H, T, T]


class PatchEmbed(nn.Module):
    def __init__(self, width, patch):
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, stride=patch)

    def forward(self, x):
        return self.proj(x).flatten(2).transpose(1, 2)  # [B, N, D]


class Beit(nn.Module):
    """`forward(pixels [B, 3, S, S], mask [B, N] bool)` → [M, V], row-major over the mask. Weights are whatever PyTorch gives: load some."""

    def __init__(self, config, sdpa=False):
        super().__init__()
        c, width = config, config["width"]
        side = c["image_px"] // c["patch_px"]
        assert c["drop_path"] == 0, "drop path is drawn differently in every framework: compare with drop_path=0"
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, side * side + 1, width)) if c["abs_pos_emb"] else None
        self.patch_embed = PatchEmbed(width, c["patch_px"])
        self.rel_pos_bias = SharedBias(side, c["heads"]) if c["rel_pos_bias"] else None
        self.blocks = nn.ModuleList(Block(c, sdpa) for _ in range(c["depth"]))
        self.norm = nn.LayerNorm(width, eps=c["eps"])
        self.lm_head = nn.Linear(width, c["vocab"])

    def forward(self, pixels, mask):
        x = self.patch_embed(pixels)  # [B, N, D]
        hidden = mask[..., None].to(x.dtype)
        x = x * (1 - hidden) + self.mask_token * hidden
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1)  # [B, T, D]
        if self.pos_embed is not None:
            x = x + self.pos_embed
        bias = self.rel_pos_bias() if self.rel_pos_bias is not None else None
        for block in self.blocks:
            x = block(x, bias)
        return self.lm_head(self.norm(x)[:, 1:][mask])  # [M, V]


def groups(model, weight_decay):
    """The two parameter groups: no decay for vectors, biases, cls_token and pos_embed."""
    spared, decayed = [], []
    for name, parameter in model.named_parameters():
        spare = parameter.ndim == 1 or name.endswith(".bias") or name in ("pos_embed", "cls_token")
        (spared if spare else decayed).append(parameter)
    return [dict(params=spared, weight_decay=0.0), dict(params=decayed, weight_decay=weight_decay)]


def schedule(base, end, steps, warmup=0):
    """The value of every step: linear from 0 to `base` in `warmup` steps, then half a cosine towards `end`."""
    length = steps - warmup
    return np.linspace(0, base, warmup).tolist() + [end + 0.5 * (base - end) * (1 + math.cos(math.pi * t / length)) for t in range(length)]


def clip(parameters, most):
    """Scales gradients to norm `most` if theirs is larger; the norm before."""
    gradients = [parameter.grad for parameter in parameters]
    total = torch.stack([gradient.norm() for gradient in gradients]).norm()
    if most is not None:
        scale = most / (total + 1e-6)
        if scale < 1:
            for gradient in gradients:
                gradient.mul_(scale)
    return total.item()


def train(model, recipe, steps, warmup, batches):
    """Trains on `batches`: for each step a list of micro-batches (pixels, mask, labels), each with its weight in the loss.

    Yields for each step (loss, mlm_acc, grad_norm, lr, weight_decay); the loss is the weighted sum of the micro-batches' means.
    """
    end = recipe["weight_decay_end"]
    rates = schedule(recipe["lr"], recipe["min_lr"], steps, warmup)
    decays = schedule(recipe["weight_decay"], recipe["weight_decay"] if end is None else end, steps)
    optimizer = torch.optim.AdamW(groups(model, recipe["weight_decay"]), lr=0.0, betas=tuple(recipe["opt_betas"]), eps=recipe["opt_eps"])
    dtype = model.cls_token.dtype
    for step, micro_batches in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = rates[step]
            if group["weight_decay"] > 0:
                group["weight_decay"] = decays[step]
        optimizer.zero_grad(set_to_none=True)
        mean = right = 0.0
        for pixels, mask, labels, weight in micro_batches:
            logits = model(pixels.to(dtype), mask)
            loss = F.cross_entropy(logits, labels)
            (loss * weight).backward()
            mean += loss.item() * weight
            right += (logits.argmax(-1) == labels).double().mean().item() * weight
        norm = clip(list(model.parameters()), recipe["clip_grad"])
        optimizer.step()
        yield mean, right, norm, rates[step], decays[step]
