"""NVIDIA DALI on the CPU. `beit` is the reference's order without the mask: jitter of the whole image, two views of one
crop. `crop` decodes nothing but a random crop, resizes it linearly to 224, flips and normalises: no jitter, one view."""

import contender

args = contender.arguments(pipeline=dict(choices=["beit", "crop"], default="beit"))

import nvidia.dali
from nvidia.dali import fn, pipeline_def, types

files = contender.images(args.data)
CROP = dict(random_area=[0.08, 1.0], random_aspect_ratio=[3 / 4, 4 / 3])


def resize(image, side, kernel):
    return fn.resize(image, size=[side, side], interp_type=kernel, antialias=True)


def normalised(image, mirror, mean, std):
    return fn.crop_mirror_normalize(
        image, mirror=mirror, mean=[mean] * 3, std=[std] * 3, dtype=types.FLOAT, output_layout="CHW"
    )


@pipeline_def(batch_size=contender.BATCH, num_threads=1, device_id=None, seed=0, prefetch_queue_depth=2)
def reference_or_crop():
    paths, labels = zip(*files)
    encoded, label = fn.readers.file(
        files=list(paths), labels=list(labels), random_shuffle=True, initial_fill=1024, pad_last_batch=False
    )
    mirror = fn.random.coin_flip(probability=0.5)
    if args.pipeline == "crop":
        image = fn.decoders.image_random_crop(encoded, device="cpu", output_type=types.RGB, num_attempts=10, **CROP)
        return normalised(resize(image, 224, types.INTERP_LINEAR), mirror, 127.5, 127.5), label
    factor = lambda: fn.random.uniform(range=[0.6, 1.4])
    image = fn.decoders.image(encoded, device="cpu", output_type=types.RGB)
    image = fn.color_twist(image, brightness=factor(), contrast=factor(), saturation=factor())
    start, shape = fn.random_crop_generator(image.shape()[:2], **CROP)
    crop = fn.slice(image, start=start, shape=shape, axes=[0, 1])
    patches = normalised(resize(crop, 224, types.INTERP_CUBIC), mirror, 127.5, 127.5)
    # 0.8 x / 255 + 0.1
    tokens = normalised(resize(crop, 112, types.INTERP_LANCZOS3), mirror, -0.1 * 255 / 0.8, 255 / 0.8)
    return patches, tokens, label


pipe = reference_or_crop()
pipe.build()
batches = -(-len(files) // contender.BATCH)
contender.run(
    args,
    lambda: sum(len(pipe.run()[-1]) for _ in range(batches)),
    DALI=nvidia.dali.__version__,
)
