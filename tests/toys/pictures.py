"""Pictures of known content in files of each kind."""

import gzip
import io
import struct

import numpy as np
from PIL import Image


def noise(seed, height, width, channels=3):
    """uint8[H, W, C] (or [H, W] for one channel): smooth, so that lossy formats and resizing keep it."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (4, 4, channels), np.uint8)
    picture = Image.fromarray(coarse if channels > 1 else coarse[..., 0])
    return np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC))


def encoded(image, kind="PNG", **options):
    """The bytes of a Pillow image."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def write(path, array, **options):
    """An image file of the kind that the ending says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


def write_folder(root, classes=("cat", "dog"), each=12, size=12):
    """root/<class>/<number>.png; {relative name: array}."""
    made = {}
    for label, name in enumerate(classes):
        for number in range(each):
            array = noise(1000 * label + number, size, size)
            write(root / name / f"{number:03}.png", array)
            made[f"{name}/{number:03}.png"] = array
    return made


def idx_bytes(array):
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def write_idx(root, prefix, images, labels=None, zipped=True):
    """PREFIX-images-idx3-ubyte(.gz), and its labels; the path of the first."""
    root.mkdir(parents=True, exist_ok=True)
    paths = []
    for part, array in ((f"images-idx{images.ndim}", images), ("labels-idx1", labels)):
        if array is not None:
            path = root / f"{prefix}-{part}-ubyte{'.gz' * zipped}"
            path.write_bytes(gzip.compress(idx_bytes(array)) if zipped else idx_bytes(array))
            paths.append(path)
    return paths[0]


def write_records(path, records):
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(str(path), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()
    return path
