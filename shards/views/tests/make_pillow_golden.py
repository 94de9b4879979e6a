"""Write tests/data: small images of every kind we read, and what Pillow makes of them. All from a fixed seed.

Usage: make_pillow_golden.py (Pillow >= 12, numpy). golden.bin holds the pixels that golden.txt points into:

  decode FILE WIDTH HEIGHT OFFSET         convert("RGB")
  refuse FILE                             Pillow cannot read it either
  cut FILE LENGTH good|bad                whether Pillow reads the first LENGTH bytes
  view FILE B C S ORDER FLIP LEFT TOP WIDTH HEIGHT PX KERNEL GREY OFFSET
                                          jitter the whole image, flip, crop, resize
  shrink FILE SIDE WIDTH HEIGHT OFFSET    LANCZOS to a short side of SIDE
  encode FILE QUALITY WIDTH HEIGHT OFFSET pixels of the JPEG that save(quality=QUALITY) writes

Pillow 13 resizes tall crops vertically first; BEiT's Pillow, and each one before 13, never did. Resizing in two steps gives
the same pixels on all of them.
"""
import io
import os
import random
import struct
import zlib

import numpy as np
from PIL import Image, ImageEnhance, ImageStat

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "data")
STEPS = {"b": ImageEnhance.Brightness, "c": ImageEnhance.Contrast, "s": ImageEnhance.Color}
KERNELS = {"bilinear": Image.BILINEAR, "bicubic": Image.BICUBIC, "lanczos": Image.LANCZOS}
rng = np.random.default_rng(2106_08254)
random.seed(2106_08254)
index, golden = [], bytearray()


def picture(width, height, channels=3):
    """Gradients, an edge, saturated corners and noise."""
    y, x = np.mgrid[0:height, 0:width].astype(float)
    planes = []
    for c in range(channels):
        plane = 128 + 90 * np.sin(x / (5 + 3 * c) + c) * np.cos(y / (7 + c)) + 60 * ((x + 2 * y) % 31 > 15) - 30
        plane += rng.normal(0, 6, plane.shape)
        plane[:4, :4] = 255 * (c % 2)
        plane[-4:, -4:] = 255 * ((c + 1) % 2)
        planes.append(plane)
    return np.clip(np.stack(planes, -1), 0, 255).astype(np.uint8)


def keep(pixels):
    offset = len(golden)
    golden.extend(np.ascontiguousarray(pixels).tobytes())
    return offset


def write(name, data):
    with open(os.path.join(HERE, name), "wb") as f:
        f.write(data)


def save(name, image, **options):
    buffer = io.BytesIO()
    image.save(buffer, **options)
    write(name, buffer.getvalue())
    return name


def png(name, width, height, depth, kind, rows, chunks=()):
    """A PNG of a kind Pillow does not write."""
    def chunk(tag, body):
        return struct.pack(">I", len(body)) + tag + body + struct.pack(">I", zlib.crc32(tag + body))
    raw = b"".join(b"\0" + row for row in rows)
    write(name, b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0))
          + b"".join(chunk(*c) for c in chunks) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b""))
    return name


def opened(name):
    with open(os.path.join(HERE, name), "rb") as f:
        return Image.open(io.BytesIO(f.read())).convert("RGB")


def decode(name):
    image = opened(name)
    index.append(f"decode {name} {image.width} {image.height} {keep(np.asarray(image))}")


def cuts(name):
    data = open(os.path.join(HERE, name), "rb").read()
    for length in [3, 20, 150, len(data) // 3, len(data) // 2, len(data) - 100, len(data) - 20, len(data) - 3, len(data) - 2, len(data) - 1]:
        try:
            Image.open(io.BytesIO(data[:length])).convert("RGB")
            verdict = "good"
        except Exception:
            verdict = "bad"
        index.append(f"cut {name} {length} {verdict}")


def view(name, px, kernel, width, height, flip):
    image = opened(name)
    factors = {s: float(np.float32(random.uniform(0.6, 1.4))) for s in "bcs"}
    order = "".join(random.sample("bcs", 3))
    left, top = random.randint(0, image.width - width), random.randint(0, image.height - height)
    for step in order:
        if step == "c":
            grey = int(ImageStat.Stat(image.convert("L")).mean[0] + 0.5)
        image = STEPS[step](image).enhance(factors[step])
    if flip:
        image = image.transpose(Image.FLIP_LEFT_RIGHT)
    crop = image.crop((left, top, left + width, top + height))
    crop = crop.resize((px, height), KERNELS[kernel]).resize((px, px), KERNELS[kernel])
    index.append(f"view {name} {factors['b']!r} {factors['c']!r} {factors['s']!r} {order} {int(flip)} {left} {top} {width} {height} "
                 f"{px} {kernel} {grey} {keep(np.asarray(crop))}")


def shrink(name, side):
    image = opened(name)
    short = min(image.size)
    width, height = (side if n == short else int(side * n / short) for n in image.size)
    small = image.resize((width, image.height), Image.LANCZOS).resize((width, height), Image.LANCZOS)
    index.append(f"shrink {name} {side} {width} {height} {keep(np.asarray(small))}")


def encode(name, quality):
    buffer = io.BytesIO()
    opened(name).save(buffer, format="jpeg", quality=quality)
    image = Image.open(buffer)
    index.append(f"encode {name} {quality} {image.width} {image.height} {keep(np.asarray(image))}")


os.makedirs(HERE, exist_ok=True)
for old in os.listdir(HERE):
    os.remove(os.path.join(HERE, old))

small = Image.fromarray(picture(37, 29))
for name, subsampling in [("444", "4:4:4"), ("422", "4:2:2"), ("420", "4:2:0"), ("411", "4:1:1")]:
    decode(save(f"small-{name}.jpg", small, format="jpeg", quality=88, subsampling=subsampling))
decode(save("small-progressive.jpg", small, format="jpeg", quality=80, progressive=True))
decode(save("small-grey.jpg", small.convert("L"), format="jpeg", quality=85))
decode(save("small-rgb.jpg", small, format="jpeg", quality=85, keep_rgb=True))
decode(save("small-restarts.jpg", small, format="jpeg", quality=85, restart_marker_blocks=2))
decode(save("small-cmyk.jpg", Image.fromarray(picture(37, 29, 4), "CMYK"), format="jpeg", quality=90))
exif = Image.Exif()
exif[0x0112] = 6
decode(save("small-rotated.jpg", small, format="jpeg", quality=85, exif=exif))
decode(save("png-named.JPEG", small, format="png"))
alpha = Image.fromarray(picture(19, 13, 4), "RGBA")
decode(save("rgba.png", alpha, format="png"))
decode(save("grey-alpha.png", Image.fromarray(picture(19, 13, 2), "LA"), format="png"))
decode(save("palette.png", small.convert("P", palette=Image.ADAPTIVE, colors=60), format="png"))
decode(save("palette-alpha.png", alpha.quantize(20), format="png"))
decode(save("two-tone.png", small.convert("1"), format="png"))
decode(save("grey.png", small.convert("L"), format="png"))
deep = (rng.integers(0, 65536, (9, 11)) >> rng.integers(0, 16, (9, 11))).astype(">u2")
decode(png("grey-16.png", 11, 9, 16, 0, [row.tobytes() for row in deep]))
decode(png("grey-16-transparent.png", 11, 9, 16, 0, [row.tobytes() for row in deep], [(b"tRNS", b"\0\7")]))
decode(png("grey-2.png", 12, 5, 2, 0, [bytes(rng.integers(0, 256, 3, dtype=np.uint8)) for _ in range(5)]))
decode(png("grey-4.png", 12, 5, 4, 0, [bytes(rng.integers(0, 256, 6, dtype=np.uint8)) for _ in range(5)]))
decode(png("rgb-16.png", 7, 5, 16, 2, [bytes(rng.integers(0, 256, 42, dtype=np.uint8)) for _ in range(5)]))
decode(png("rgba-16.png", 7, 5, 16, 6, [bytes(rng.integers(0, 256, 56, dtype=np.uint8)) for _ in range(5)]))
decode(png("grey-alpha-16.png", 7, 5, 16, 4, [bytes(rng.integers(0, 256, 28, dtype=np.uint8)) for _ in range(5)]))
decode(save("one-pixel.png", small.crop((9, 9, 10, 10)), format="png"))
decode(save("one-pixel.jpg", small.crop((9, 9, 10, 10)), format="jpeg"))
decode(save("small.ppm", small, format="ppm"))
decode(save("small.pgm", small.convert("L"), format="ppm"))
decode(save("small.bmp", small, format="bmp"))
decode(save("small.tiff", small, format="tiff", compression="tiff_lzw"))
decode(save("grey-16.tiff", Image.fromarray(deep.astype("<u2")), format="tiff"))
decode(save("lossless.webp", small, format="webp", lossless=True))
decode(save("lossy.webp", small, format="webp", quality=80))
frames = [Image.fromarray(picture(19, 13)) for _ in range(2)]
decode(save("animated.png", frames[0], format="png", save_all=True, append_images=frames[1:]))
decode(save("animated.webp", frames[0], format="webp", save_all=True, append_images=frames[1:], lossless=True))
for name in ["small-420.jpg", "small-progressive.jpg", "small-grey.jpg", "png-named.JPEG"]:
    cuts(name)

large = picture(171, 118)
names = []
for name, options in [("444", dict(subsampling="4:4:4")), ("422", dict(subsampling="4:2:2")), ("420", dict(subsampling="4:2:0")),
                      ("progressive", dict(progressive=True, subsampling="4:2:0"))]:
    names.append(save(f"large-{name}.jpg", Image.fromarray(large), format="jpeg", quality=75, **options))
names.append(save("large-grey.jpg", Image.fromarray(large[:, :, 0]), format="jpeg", quality=75))
names += ["small-cmyk.jpg", "png-named.JPEG"]
for i, name in enumerate(names):
    w, h = opened(name).size
    view(name, 32, "bicubic", random.randint(w // 2, w), random.randint(h // 2, h), i % 2 == 0)
    view(name, 24, "lanczos", random.randint(w // 3, w), random.randint(h // 2, h), i % 2 == 1)
    view(name, 33, "bicubic", random.randint(4, 20), random.randint(4, 20), i % 3 == 0)
    view(name, 20, "bilinear", w, h, i % 2 == 0)
view(names[2], 17, "lanczos", 17, 90, True)
view(names[2], 16, "bicubic", 130, 16, False)
view(names[0], 4, "lanczos", 171, 118, True)
view("one-pixel.jpg", 8, "bicubic", 1, 1, True)

shrink("large-444.jpg", 40)
shrink("png-named.JPEG", 28)
encode("png-named.JPEG", 90)

with open(os.path.join(HERE, "golden.txt"), "w") as f:
    f.write("\n".join(index) + "\n")
write("golden.bin", bytes(golden))
print(sum(os.path.getsize(os.path.join(HERE, n)) for n in os.listdir(HERE)), "bytes in", len(os.listdir(HERE)), "files")
