"""BEiT's pre-training input with Pillow and torchvision, in the reference's order: jitter of the whole image, flip, one
crop as a patch view (224 px, bicubic) and a token view (112 px, Lanczos), tensors, normalisation, block-wise mask."""

import contender

args = contender.arguments()

import math
import random

import numpy
import PIL
import torch
import torchvision
from PIL import Image
from torchvision.transforms import ColorJitter, InterpolationMode, RandomHorizontalFlip, RandomResizedCrop
from torchvision.transforms import functional as F

torch.set_num_threads(1)

SIDE, TARGET, SMALLEST = 14, 75, 16
LOG_ASPECT = math.log(0.3), math.log(1 / 0.3)
jitter = ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4)
flip = RandomHorizontalFlip(0.5)


def add_block(mask, budget):
    """Hides one more rectangle of at most `budget` new patches; how many it hid, after ten tries at most."""
    for _ in range(10):
        area, aspect = random.uniform(SMALLEST, budget), math.exp(random.uniform(*LOG_ASPECT))
        height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if height >= SIDE or width >= SIDE:
            continue
        top, left = random.randint(0, SIDE - height), random.randint(0, SIDE - width)
        block = mask[top : top + height, left : left + width]
        new = height * width - int(block.sum())
        if 0 < new <= budget:
            block[:] = 1
            return new
    return 0


def block_wise_mask():
    mask, hidden = numpy.zeros((SIDE, SIDE), dtype=int), 0
    while hidden < TARGET and (new := add_block(mask, TARGET - hidden)):
        hidden += new
    return mask


class Views(torch.utils.data.Dataset):
    def __init__(self, files):
        self.files = files

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        path, label = self.files[index]
        with open(path, "rb") as file:
            image = Image.open(file).convert("RGB")
        image = flip(jitter(image))
        box = RandomResizedCrop.get_params(image, scale=[0.08, 1.0], ratio=[3 / 4, 4 / 3])
        patches = F.resized_crop(image, *box, [224, 224], InterpolationMode.BICUBIC)
        tokens = F.resized_crop(image, *box, [112, 112], InterpolationMode.LANCZOS)
        patches = F.normalize(F.to_tensor(patches), [0.5] * 3, [0.5] * 3)
        return (patches, 0.8 * F.to_tensor(tokens) + 0.1, block_wise_mask()), label


loader = torch.utils.data.DataLoader(Views(contender.images(args.data)), batch_size=contender.BATCH, shuffle=True)
contender.run(
    args,
    lambda: sum(len(labels) for _, labels in loader),
    Pillow=PIL.__version__,
    torch=torch.__version__,
    torchvision=torchvision.__version__,
)
