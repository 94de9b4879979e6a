"""Compare the views that `how_fast_is_a_crop --dump DIR` wrote with Pillow's, made in the reference's order: jitter of the whole
image, flip, crop, resize. Usage: compare_with_pillow.py DIR"""
import sys
import numpy as np
import PIL
from PIL import Image, ImageEnhance

STEPS = {"b": ImageEnhance.Brightness, "c": ImageEnhance.Contrast, "s": ImageEnhance.Color}
folder = sys.argv[1]
views = open(f"{folder}/views.bin", "rb")
equal, worst, count, pixels, differing = [0, 0], [0, 0], 0, [0, 0], []
for line in open(f"{folder}/views.txt"):
    b, c, s, order, flip, left, top, width, height, path = line.rstrip("\n").split(" ", 9)
    factors = dict(b=float(b), c=float(c), s=float(s))
    left, top, width, height = int(left), int(top), int(width), int(height)
    with open(path, "rb") as f:
        image = Image.open(f).convert("RGB")
    for step in order:
        image = STEPS[step](image).enhance(factors[step])
    if flip == "1":
        image = image.transpose(Image.FLIP_LEFT_RIGHT)
    crop = image.crop((left, top, left + width, top + height))
    count += 1
    for i, (px, kernel) in enumerate([(224, Image.BICUBIC), (112, Image.LANCZOS)]):
        ours = np.frombuffer(views.read(px * px * 3), np.uint8).astype(int)
        theirs = np.asarray(crop.resize((px, px), kernel)).reshape(-1).astype(int)
        difference = np.abs(ours - theirs)
        equal[i] += int(difference.max() == 0)
        worst[i] = max(worst[i], int(difference.max()))
        pixels[i] += int((difference > 0).sum())
        if difference.max() and len(differing) < 100:
            differing.append((line.strip(), image.size, px, int(difference.max()), int((difference > 0).sum())))
print(f"Pillow {PIL.__version__}, {count} images")
for i, name in enumerate(["224 bicubic", "112 Lanczos"]):
    print(f"{name}: {equal[i]} bit-equal, largest difference {worst[i]}, {pixels[i]} differing samples")
for line in differing:
    print("  differs:", *line)
