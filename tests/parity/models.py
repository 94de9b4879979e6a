#!/usr/bin/env python3
"""Compares models with transformers and timm: names, shapes, outputs, bytes, and for gradients leaves a folder to a Rust test.

    models.py [--beit-train target/release/beit-train] [--only WORD] [--large] [--gradients FOLDER] [--work FOLDER]

For each geometry it makes a model of transformers with random weights (everything that starts at zero or one is moved away from
it, or it would prove nothing), saves it, and then: `beit-train import`; `forward` against its logits; `export` to every format and
back, the tensors byte by byte; transformers, timm and torch.load(weights_only=True) on what was exported, against the same logits.
An image's logits are compared by their largest difference, in parts of the largest logit. Without --large nothing above base is made.

With --gradients it also writes, for base (and large with --large), what the ignored test full_size_gradients_equal_pytorchs reads; see scripts/parity.sh.

Needs: pip install torch==2.13.0 torchvision==0.28.0 transformers==5.23.0 timm==1.0.31 safetensors==0.8.0 numpy
"""
import argparse
import functools
import gc
import os
import re
import shutil
import subprocess
import sys
import tempfile

import torch
from safetensors.torch import load_file, save_file
from timm.models import load_checkpoint
from timm.models.beit import Beit
from transformers import BeitConfig, BeitForImageClassification, BeitForMaskedImageModeling

TOLERANCE = 2e-5  # fp32: the order of sums differs

TINY = dict(hidden_size=48, num_hidden_layers=3, num_attention_heads=3, intermediate_size=192, image_size=64)
LARGE = dict(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096)
OWN = dict(use_relative_position_bias=True)
SHARED = dict(use_shared_relative_position_bias=True)
ABSOLUTE = dict(use_absolute_position_embeddings=True)
PLAIN = dict(layer_scale_init_value=0.0)  # no layer scale
CLS = dict(use_mean_pooling=False)
TOKENS, CLASSES = BeitForMaskedImageModeling, BeitForImageClassification

CASES = {  # name: (class, settings); eps is transformers' 1e-12 unless told
    "tokens-shared": (TOKENS, TINY | SHARED | dict(vocab_size=64, layer_norm_eps=1e-6)),
    "tokens-own": (TOKENS, TINY | OWN | dict(vocab_size=100)),
    "tokens-absolute-plain-patch8-96": (TOKENS, TINY | ABSOLUTE | PLAIN | dict(image_size=96, patch_size=8, vocab_size=100)),
    "tokens-everything": (TOKENS, TINY | SHARED | OWN | ABSOLUTE | dict(vocab_size=33, intermediate_size=50)),
    "tokens-no-positions": (TOKENS, TINY | dict(vocab_size=7)),
    "tokens-two-norms": (TOKENS, TINY | SHARED | CLS | dict(vocab_size=64)),
    "tokens-margin": (TOKENS, TINY | SHARED | dict(image_size=100, vocab_size=64)),
    "classes-own": (CLASSES, TINY | OWN | dict(num_labels=10, layer_norm_eps=1e-6)),
    "classes-shared": (CLASSES, TINY | SHARED | dict(num_labels=2)),
    "classes-cls-shared": (CLASSES, TINY | SHARED | CLS | dict(num_labels=3)),
    "classes-absolute-plain-1e-5": (CLASSES, TINY | ABSOLUTE | PLAIN | dict(num_labels=5, layer_norm_eps=1e-5, intermediate_size=100)),
    "classes-everything-mask-token": (CLASSES, TINY | OWN | SHARED | ABSOLUTE | dict(num_labels=6, use_mask_token=True)),
    "classes-one": (CLASSES, TINY | OWN | dict(num_labels=1, num_hidden_layers=1, num_attention_heads=1)),
    "base-tokens": (TOKENS, SHARED | dict(layer_norm_eps=1e-6)),
    "base-tokens-absolute-plain": (TOKENS, ABSOLUTE | PLAIN | dict(layer_norm_eps=1e-6)),
    "base-classes": (CLASSES, OWN | dict(layer_norm_eps=1e-6, num_labels=1000)),
    "base-classes-384": (CLASSES, OWN | dict(layer_norm_eps=1e-6, num_labels=1000, image_size=384)),
    "large-tokens": (TOKENS, SHARED | LARGE | dict(layer_norm_eps=1e-6)),
    "large-classes": (CLASSES, OWN | LARGE | dict(layer_norm_eps=1e-6, num_labels=1000)),
}

# The specification's counts.
COUNTS = {
    "base-tokens": 91_965_776,
    "base-tokens-absolute-plain": 92_089_856,
    "base-classes": 86_530_984,
    "base-classes-384": 86_744_104,
    "large-tokens": 311_534_016,
    "large-classes": 304_430_568,
}


def expected_names(config, tokens):
    """The reference's state dict: names, shapes, in order; written from the specification's table."""
    width, grid = config.hidden_size, config.image_size // config.patch_size
    positions, offsets, middle = grid * grid + 1, (2 * grid - 1) ** 2 + 3, config.intermediate_size
    yield "cls_token", (1, 1, width)
    if tokens:
        yield "mask_token", (1, 1, width)
    if config.use_absolute_position_embeddings:
        yield "pos_embed", (1, positions, width)
    yield "patch_embed.proj.weight", (width, 3, config.patch_size, config.patch_size)
    yield "patch_embed.proj.bias", (width,)
    if config.use_shared_relative_position_bias:
        yield "rel_pos_bias.relative_position_bias_table", (offsets, config.num_attention_heads)
        yield "rel_pos_bias.relative_position_index", (positions, positions)
    for block in (f"blocks.{i}." for i in range(config.num_hidden_layers)):
        if config.layer_scale_init_value > 0:
            yield block + "gamma_1", (width,)
            yield block + "gamma_2", (width,)
        yield block + "norm1.weight", (width,)
        yield block + "norm1.bias", (width,)
        yield block + "attn.q_bias", (width,)
        yield block + "attn.v_bias", (width,)
        if config.use_relative_position_bias:
            yield block + "attn.relative_position_bias_table", (offsets, config.num_attention_heads)
            yield block + "attn.relative_position_index", (positions, positions)
        yield block + "attn.qkv.weight", (3 * width, width)
        yield block + "attn.proj.weight", (width, width)
        yield block + "attn.proj.bias", (width,)
        yield block + "norm2.weight", (width,)
        yield block + "norm2.bias", (width,)
        yield block + "mlp.fc1.weight", (middle, width)
        yield block + "mlp.fc1.bias", (middle,)
        yield block + "mlp.fc2.weight", (width, middle)
        yield block + "mlp.fc2.bias", (width,)
    norm = "norm" if tokens or not config.use_mean_pooling else "fc_norm"
    yield norm + ".weight", (width,)
    yield norm + ".bias", (width,)
    head, rows = ("lm_head", config.vocab_size) if tokens else ("head", config.num_labels)
    yield head + ".weight", (rows, width)
    yield head + ".bias", (rows,)


def make(kind, settings):
    settings = dict(settings)
    if kind is TOKENS:
        settings["use_mask_token"] = True
    layers = settings.get("num_hidden_layers", 12)
    config = BeitConfig(**settings, out_indices=[layers])
    model = kind(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1 or "bias_table" in name or "token" in name or "position" in name:
                parameter += 0.1 * torch.randn_like(parameter)
            if "lambda" in name:
                parameter += 0.3
    return model


def distance(found, expected):
    assert found.shape == expected.shape, (found.shape, expected.shape)
    return ((found - expected).abs().max() / expected.abs().max()).item()


def answer(model, pixels, mask):
    with torch.no_grad():
        if mask is None:
            return model(pixels).logits
        return model(pixels, bool_masked_pos=mask).logits[mask]


def timm_model(config, kind):
    tokens = kind is TOKENS
    return Beit(
        img_size=config.image_size,
        patch_size=config.patch_size,
        num_classes=0 if tokens else config.num_labels,
        global_pool="avg" if not tokens and config.use_mean_pooling else "token",
        embed_dim=config.hidden_size,
        depth=config.num_hidden_layers,
        num_heads=config.num_attention_heads,
        mlp_ratio=config.intermediate_size / config.hidden_size,
        init_values=config.layer_scale_init_value or None,
        use_abs_pos_emb=config.use_absolute_position_embeddings,
        use_rel_pos_bias=config.use_relative_position_bias,
        use_shared_rel_pos_bias=config.use_shared_relative_position_bias,
        norm_layer=functools.partial(torch.nn.LayerNorm, eps=config.layer_norm_eps),
    ).eval()


def same_bytes(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(
        a.contiguous().view(-1).view(torch.uint8), b.contiguous().view(-1).view(torch.uint8))


def check(name, kind, settings, run, work):
    """Gives the largest distance of each comparison."""
    torch.manual_seed(sum(name.encode()))
    model = make(kind, settings)
    config, tokens = model.config, kind is TOKENS
    patches = (config.image_size // config.patch_size) ** 2
    pixels = torch.randn(2, 3, config.image_size, config.image_size)
    given, mask = {"pixels": pixels}, None
    if tokens:
        mask = torch.rand(2, patches) < 0.4
        mask[0, 1], mask[0, 0] = True, False
        given["mask"] = mask.to(torch.uint8)
    save_file(given, f"{work}/in.safetensors")
    expected = answer(model, pixels, mask)
    features = None
    if tokens and config.use_mean_pooling:
        with torch.no_grad():
            features = model.layernorm(model.beit(pixels).last_hidden_state)
    model.save_pretrained(f"{work}/hf")
    originals = None if config.hidden_size > 768 else {k: v.clone() for k, v in load_file(f"{work}/hf/model.safetensors").items()}
    del model
    gc.collect()

    def forward(checkpoint):
        run("forward", checkpoint, f"{work}/in.safetensors", f"{work}/out.safetensors")
        logits = load_file(f"{work}/out.safetensors")["logits"].clone()
        os.remove(f"{work}/out.safetensors")
        return distance(logits, expected)

    figures = {}
    run("import", f"{work}/hf", f"{work}/checkpoint")
    figures["forward"] = forward(f"{work}/checkpoint")

    two_norms = tokens and not config.use_mean_pooling
    plain_mask_token = not tokens and config.use_mask_token
    run("export", f"{work}/checkpoint", "--to", "safetensors", f"{work}/plain.safetensors")
    if not two_norms and not plain_mask_token:
        run("export", f"{work}/checkpoint", "--to", "unilm", f"{work}/u.pth")
        saved = torch.load(f"{work}/u.pth", weights_only=True)["model"]
        names = [(key, tuple(tensor.shape)) for key, tensor in saved.items()]
        assert names == list(expected_names(config, tokens)), "names, shapes or order"
        count = sum(t.numel() for t in saved.values() if t.is_floating_point())
        assert COUNTS.get(name, count) == count, count
        figures["parameters"] = count
        plain = load_file(f"{work}/plain.safetensors")
        assert plain.keys() == saved.keys() and all(same_bytes(plain[k], saved[k]) for k in plain)
        del saved, plain
        run("import", f"{work}/u.pth", f"{work}/checkpoint-u")
        same_file(f"{work}/checkpoint/model.safetensors", f"{work}/checkpoint-u/model.safetensors")
        shutil.rmtree(f"{work}/checkpoint-u")
        os.remove(f"{work}/u.pth")

    run("export", f"{work}/checkpoint", "--to", "transformers", f"{work}/hf-again")
    if originals is not None:
        again = load_file(f"{work}/hf-again/model.safetensors")
        assert again.keys() == originals.keys() and all(same_bytes(again[k], originals[k]) for k in again)
        del again, originals
    shutil.rmtree(f"{work}/hf")
    model, info = kind.from_pretrained(f"{work}/hf-again", output_loading_info=True)
    assert two_norms or not any(info.get(k) for k in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    if not two_norms:  # transformers 5.23 mixes up layernorm and beit.layernorm of its own files
        figures["transformers"] = distance(answer(model.eval(), pixels, mask), expected)
    del model
    gc.collect()

    if not two_norms and not plain_mask_token:
        for ending in ("pth", "safetensors"):
            run("export", f"{work}/checkpoint", "--to", "timm", f"{work}/timm.{ending}")
            model = timm_model(config, kind)
            if ending == "pth":
                model.load_state_dict(torch.load(f"{work}/timm.pth", weights_only=True), strict=True)
            else:
                load_checkpoint(model, f"{work}/timm.safetensors")
            with torch.no_grad():
                if not tokens:
                    figures["timm"] = distance(model(pixels), expected)
                elif features is not None and config.image_size % config.patch_size == 0:
                    figures["timm encoder"] = distance(model.forward_features(pixels), features)
            del model
            os.remove(f"{work}/timm.{ending}")
    for key, figure in figures.items():
        assert key == "parameters" or figure <= TOLERANCE, (name, key, figure)
    return figures


def same_file(a, b):
    with open(a, "rb") as one, open(b, "rb") as other:
        while True:
            left, right = one.read(1 << 24), other.read(1 << 24)
            assert left == right, f"{a} and {b} differ"
            if not left:
                return


def unilm_name(name):
    """A parameter of transformers in memory, in the reference's words; q, k and v weights have no word of their own."""
    for old, new in [
        (r"^beit\.embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
        (r"^beit\.embeddings\.position_embeddings$", "pos_embed"),
        (r"^beit\.embeddings\.", ""),
        (r"^beit\.shared_position_bias\.", "rel_pos_bias."),
        (r"^beit\.layers\.", "blocks."),
        (r"^beit\.pooler\.layernorm\.", "fc_norm."),
        (r"^(beit\.)?layernorm\.", "norm."),
        (r"^classifier\.", "head."),
        (r"\.lambda_", ".gamma_"),
        (r"\.layernorm_before\.", ".norm1."),
        (r"\.layernorm_after\.", ".norm2."),
        (r"\.attention\.q_proj\.bias$", ".attn.q_bias"),
        (r"\.attention\.v_proj\.bias$", ".attn.v_bias"),
        (r"\.attention\.o_proj\.", ".attn.proj."),
        (r"\.relative_position_bias\.relative", ".attn.relative"),
    ]:
        name = re.sub(old, new, name)
    return name


def gradients(name, run, folder):
    """Leaves a checkpoint, an input and every gradient of the loss to the Rust test."""
    kind, settings = CASES[name]
    torch.manual_seed(7)
    model = make(kind, settings)
    config, place = model.config, f"{folder}/{name}"
    os.makedirs(place)
    model.save_pretrained(f"{place}/hf")
    pixels = torch.randn(2, 3, config.image_size, config.image_size)
    out = {"pixels": pixels}
    if kind is TOKENS:
        mask = torch.rand(2, (config.image_size // config.patch_size) ** 2) < 0.4
        out["mask"] = mask.to(torch.uint8)
        out["labels"] = torch.randint(config.vocab_size, (int(mask.sum()),))
        logits = model(pixels, bool_masked_pos=mask).logits[mask]
    else:
        out["labels"] = torch.randint(config.num_labels, (2,))
        logits = model(pixels).logits
    loss = torch.nn.functional.cross_entropy(logits, out["labels"])
    loss.backward()
    out |= {"logits": logits.detach().contiguous(), "loss": loss.detach().view(1)}
    parts = {}
    for key, parameter in model.named_parameters():
        block = re.match(r"beit\.layers\.(\d+)\.attention\.([qkv])_proj\.weight", key)
        if block:
            parts.setdefault(block[1], {})[block[2]] = parameter.grad
        else:
            out["grad." + unilm_name(key)] = parameter.grad
    for number, part in parts.items():
        out[f"grad.blocks.{number}.attn.qkv.weight"] = torch.cat([part["q"], part["k"], part["v"]])
    save_file(out, f"{place}/expected.safetensors")
    run("import", f"{place}/hf", f"{place}/checkpoint")
    shutil.rmtree(f"{place}/hf")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--beit-train", default="target/release/beit-train")
    parser.add_argument("--only", default="")
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--gradients")
    parser.add_argument("--work")
    args = parser.parse_args()
    binary = os.path.abspath(args.beit_train)

    def run(*words):
        done = subprocess.run([binary, *words], capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"beit-train {' '.join(words)}: {done.stderr}")

    print(f"{'model':36} {'parameters':>12}  distances (largest, in parts of the largest logit)")
    for name, (kind, settings) in CASES.items():
        if args.only not in name or (name.startswith("large") and not args.large):
            continue
        with tempfile.TemporaryDirectory(dir=args.work) as work:
            figures = check(name, kind, settings, run, work)
        count = figures.pop("parameters", "")
        print(f"{name:36} {count:>12}  " + ", ".join(f"{key} {figure:.1e}" for key, figure in figures.items()), flush=True)
        gc.collect()
    if args.gradients:
        large = ("large-tokens", "large-classes") if args.large else ()
        for name in ("base-tokens", "base-classes", *large):
            if args.only in name:
                gradients(name, run, args.gradients)
                print(f"{name}: gradients written", flush=True)


if __name__ == "__main__":
    main()
