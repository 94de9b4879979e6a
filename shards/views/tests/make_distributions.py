"""Write tests/data/distributions.{txt,bin}: what a reader of the reference's rules draws, for the two-sample tests.

Usage: make_distributions.py (Python 3, standard library only). Written from the reference's published rules (torchvision's
RandomResizedCrop and ColorJitter, BEiT's masking generator), on Python's own generator; nothing of beit-views is used.

  sample NAME DRAWS KEPT OFFSET     every (DRAWS / KEPT)-th of the sorted draws, little-endian f32 from OFFSET in the .bin
  counts NAME N0 N1 ...             how often each outcome came
"""
import math
import os
import random
import struct

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "data")
DRAWS, KEPT, MASKS = 16_000, 1_000, 16_000
SIZES = [(500, 375), (375, 500), (64, 48), (1000, 200), (90, 400)]
MASK_SPECS = [("14x14", 14, 75, 16, None), ("8x8", 8, 26, 4, None), ("24x24", 24, 220, 16, 60)]
rng = random.Random(2106_08254)
text, binary = [], bytearray()


def crop(width, height, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3)):
    """left, top, width, height"""
    area = width * height
    for _ in range(10):
        target = rng.uniform(*scale) * area
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = int(round(math.sqrt(target * aspect))), int(round(math.sqrt(target / aspect)))
        if 0 < w <= width and 0 < h <= height:
            top, left = rng.randint(0, height - h), rng.randint(0, width - w)
            return left, top, w, h
    if width / height < ratio[0]:
        w, h = width, int(round(width / ratio[0]))
    elif width / height > ratio[1]:
        w, h = int(round(height * ratio[1])), height
    else:
        w, h = width, height
    return (width - w) // 2, (height - h) // 2, w, h


def mask(side, target, least, most):
    """Rows of 0 and 1."""
    most = target if most is None else most
    grid, count = [[0] * side for _ in range(side)], 0
    while count < target:
        budget, added = min(target - count, most), 0
        for _ in range(10):
            area = rng.uniform(least, budget)
            aspect = math.exp(rng.uniform(math.log(0.3), math.log(1 / 0.3)))
            h, w = int(round(math.sqrt(area * aspect))), int(round(math.sqrt(area / aspect)))
            if not (w < side and h < side):
                continue
            top, left = rng.randint(0, side - h), rng.randint(0, side - w)
            inside = [(y, x) for y in range(top, top + h) for x in range(left, left + w)]
            new = sum(1 - grid[y][x] for y, x in inside)
            if 0 < new <= budget:
                for y, x in inside:
                    grid[y][x] = 1
                added = new
                break
        if added == 0:
            break
        count += added
    return grid


def sample(name, values):
    values = sorted(values)
    step = len(values) // KEPT
    text.append(f"sample {name} {len(values)} {KEPT} {len(binary)}")
    binary.extend(struct.pack(f"<{KEPT}f", *values[step // 2 :: step]))


for width, height in SIZES:
    boxes = [crop(width, height) for _ in range(DRAWS)]
    size = f"{width}x{height}"
    sample(f"area/{size}", [w * h / (width * height) for _, _, w, h in boxes])
    sample(f"aspect/{size}", [w / h for _, _, w, h in boxes])
    sample(f"left/{size}", [left / width for left, _, _, _ in boxes])
    sample(f"top/{size}", [top / height for _, top, _, _ in boxes])

orders = {}
for _ in range(DRAWS):
    order = "".join(rng.sample("bcs", 3))
    orders[order] = orders.get(order, 0) + 1
sample("jitter", [rng.uniform(0.6, 1.4) for _ in range(DRAWS)])
text.append("counts order/bcs,bsc,cbs,csb,sbc,scb " + " ".join(str(orders[o]) for o in sorted(orders)))
flips = sum(rng.random() < 0.5 for _ in range(DRAWS))
text.append(f"counts flip {DRAWS - flips} {flips}")

for name, side, target, least, most in MASK_SPECS:
    hidden, cells = [0] * (target + 1), [0] * (side * side)
    for _ in range(MASKS):
        grid = mask(side, target, least, most)
        hidden[sum(map(sum, grid))] += 1
        for y in range(side):
            for x in range(side):
                cells[y * side + x] += grid[y][x]
    text.append(f"counts hidden/{name} " + " ".join(map(str, hidden)))
    text.append(f"counts cells/{name} " + " ".join(map(str, cells)))

open(os.path.join(HERE, "distributions.txt"), "w").write("\n".join(text) + "\n")
open(os.path.join(HERE, "distributions.bin"), "wb").write(binary)
