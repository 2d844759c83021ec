"""What references answered, kept for those who do not have them: `frozen/*.npz`, less than 1 MB in all.

    PRETRAINX_FREEZE=1 CI=true pytest -n0 tests/parity -k "every_gradient and not float32"

writes them anew (pip install -e ".[parity]"): random weights of tiny models under the reference's names, what they were given,
and of float64 answers the loss, a part of text's logits and two numbers of every gradient leaf. `test_frozen.py` asks ours.
"""

import json
import math
import os
import pathlib

import numpy as np

from pretrainx.interop import weights
from pretrainx.interop.directory import FAMILIES

EVERY = 7  # logit of a token is kept
DIRECTORY = pathlib.Path(__file__).parent / "frozen"


def keep(folder, values, asked, loss, gradients, logits=None):
    """Writes one model's file where PRETRAINX_FREEZE is set.

    folder: where the reference saved it; values: its config.json; asked: {"inputs", "targets", "weights": trees of arrays};
    gradients: {name: array} of the reference, logits: its own of text.
    """
    if not os.environ.get("PRETRAINX_FREEZE"):
        return
    DIRECTORY.mkdir(exist_ok=True)
    stored = weights.read(folder, FAMILIES[values["model_type"]].weights)
    arrays = {f"tensor/{name}": short(array) for name, array in stored.items()}
    arrays |= {f"asked/{path}": short(np.asarray(array)) for path, array in flat(asked)}
    arrays |= {f"gradient/{name}": told(array) for name, array in gradients.items()}
    arrays |= {"loss": np.float64(loss), "config": np.array(json.dumps(values))}
    if logits is not None:
        arrays["logits"] = logits[..., ::EVERY]
    pack(DIRECTORY / f"{called(values)}.npz", arrays)


def pack(path, arrays):
    """Writes them behind one another: as members of an archive most of hundreds of small ones would be their headers."""
    arrays = {name: np.asarray(array) for name, array in arrays.items()}
    index = {name: [array.dtype.str, array.shape] for name, array in arrays.items()}
    content = np.frombuffer(b"".join(array.tobytes() for array in arrays.values()), np.uint8)
    np.savez_compressed(path, index=np.array(json.dumps(index)), content=content)


def unpack(path):
    """{name: array} of what `pack` wrote."""
    with np.load(path, allow_pickle=False) as file:
        index, content = json.loads(str(file["index"])), file["content"].tobytes()
    found, place = {}, 0
    for name, (dtype, shape) in index.items():
        array = np.frombuffer(content, dtype, math.prod(shape), place).reshape(shape)
        found[name], place = array, place + array.nbytes
    return found


def called(values):
    """A name for a config.json: the family, and for T5 its form."""
    return "-".join(filter(None, (values["model_type"], values.get("feed_forward_proj"))))


def told(gradient):
    """float64[2], by which a gradient is known again: its largest entry, and its product with a fixed vector."""
    entries = np.asarray(gradient, np.float64).ravel()
    return np.array([np.abs(entries).max(), entries @ np.cos(np.arange(entries.size))])


def short(array):
    """In the fewest bits that lose nothing."""
    for dtype in (np.float16, np.float32) if array.dtype.kind == "f" else ():
        if np.array_equal(array.astype(dtype), array):
            return array.astype(dtype)
    return array


def flat(tree, path=""):
    if not isinstance(tree, dict):
        yield path, tree
        return
    for name, value in tree.items():
        yield from flat(value, f"{path}/{name}" if path else name)


def read(path):
    """(config values, {name: tensor}, {path: what was asked}, {name: told(gradient)}, loss, a part of the logits or None)

    Floating-point numbers are float64 again.
    """
    wide = lambda array: array.astype(np.float64) if array.dtype.kind == "f" else array
    arrays = {name: wide(array) for name, array in unpack(path).items()}
    part = lambda kind: {name.removeprefix(kind): array for name, array in arrays.items() if name.startswith(kind)}
    values = json.loads(str(arrays["config"])) | {"dtype": "float64"}
    return values, part("tensor/"), part("asked/"), part("gradient/"), float(arrays["loss"]), arrays.get("logits")
