"""FFCV. `jpg` re-encodes at quality 90 and at most 512 px, its usual trade; `raw` stores pixels with a short side of 256.
Both: random resized crop to 224 (area), flip, normalise to half precision; `--jitter 1` adds its own colour jitter. No
token view, no mask."""

import contender

args = contender.arguments(mode=dict(choices=["jpg", "raw"], default="jpg"), jitter=dict(type=int, default=0))

import importlib.metadata
import os

import cv2
import numpy
import torch
from ffcv.fields import IntField, RGBImageField
from ffcv.fields.decoders import IntDecoder, RandomResizedCropRGBImageDecoder
from ffcv.loader import Loader, OrderOption
from ffcv.transforms import (
    NormalizeImage,
    RandomBrightness,
    RandomContrast,
    RandomHorizontalFlip,
    RandomSaturation,
    Squeeze,
    ToTensor,
    ToTorchImage,
)
from ffcv.writer import DatasetWriter
from PIL import Image

torch.set_num_threads(1)
cv2.setNumThreads(1)
files = contender.images(args.data)
beton = os.path.join(args.work, f"{args.mode}-{len(files)}.beton")


class Decoded:
    def __len__(self):
        return len(files)

    def __getitem__(self, index):
        path, label = files[index]
        image = Image.open(path).convert("RGB")
        if args.mode == "raw":
            scale = 256 / min(image.size)
            image = image.resize((round(image.width * scale), round(image.height * scale)), Image.BICUBIC)
        return image, label


def write():
    field = dict(write_mode="jpg", max_resolution=512, jpeg_quality=90) if args.mode == "jpg" else dict(write_mode="raw")
    temporary = beton + ".tmp"
    writer = DatasetWriter(temporary, dict(image=RGBImageField(**field), label=IntField()), num_workers=1, page_size=1 << 22)
    writer.from_indexed_dataset(Decoded())
    os.rename(temporary, beton)


if not os.path.exists(beton):
    write()
colours = [RandomBrightness(0.4, 1.0), RandomContrast(0.4, 1.0), RandomSaturation(0.4, 1.0)] if args.jitter else []
grey = numpy.full(3, 127.5)
pixels = [
    RandomResizedCropRGBImageDecoder((224, 224), scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3)),
    RandomHorizontalFlip(),
    *colours,
    NormalizeImage(grey, grey, numpy.float16),
    ToTensor(),
    ToTorchImage(channels_last=True),
]
loader = Loader(
    beton,
    batch_size=contender.BATCH,
    num_workers=1,
    order=OrderOption.RANDOM,
    os_cache=True,
    drop_last=False,
    pipelines=dict(image=pixels, label=[IntDecoder(), ToTensor(), Squeeze()]),
)
contender.run(args, lambda: sum(len(labels) for _, labels in loader), FFCV=importlib.metadata.version("ffcv"))
os._exit(0)  # its threads may never join
