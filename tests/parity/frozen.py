"""What references answered, kept for those who do not have them: `frozen/*.npz`, less than 1 MB in all.

    PRETRAINX_FREEZE=1 CI=true pytest -n0 tests/parity -k "every_gradient and not float32"

writes them anew (pip install -e ".[parity]"): random weights of tiny models under the reference's names, what they were given,
and of float64 answers the loss, a part of text's logits and two numbers of every gradient leaf. `test_frozen.py` asks ours.
"""

import json
import os
import pathlib

import numpy as np

from pretrainx.interop import weights

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
    arrays = {f"tensor/{name}": short(array) for name, array in weights.read(folder).items()}
    arrays |= {f"asked/{path}": short(np.asarray(array)) for path, array in flat(asked)}
    arrays |= {f"gradient/{name}": told(array) for name, array in gradients.items()}
    arrays |= {"loss": np.float64(loss), "config": np.array(json.dumps(values))}
    if logits is not None:
        arrays["logits"] = logits[..., ::EVERY]
    np.savez_compressed(DIRECTORY / f"{called(values)}.npz", **arrays)


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
    with np.load(path, allow_pickle=False) as file:
        wide = lambda array: array.astype(np.float64) if array.dtype.kind == "f" else array
        arrays = {name: wide(file[name]) for name in file.files}
    part = lambda kind: {name.removeprefix(kind): array for name, array in arrays.items() if name.startswith(kind)}
    values = json.loads(str(arrays["config"])) | {"dtype": "float64"}
    return values, part("tensor/"), part("asked/"), part("gradient/"), float(arrays["loss"]), arrays.get("logits")
