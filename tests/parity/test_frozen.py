"""Equality with references that are not installed: with what they answered once, for the same weights and inputs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from parity import (
    frozen,
    observed,
    paired,
    pictured,
    test_bart,
    test_beit_parity,
    test_clip,
    test_coca,
    test_roberta,
    test_siglip,
    test_vit_mae,
    test_vit_parity,
)
from parity.reference import apart
from pretrainx.interop import directory
from pretrainx.objectives.autoregressive import AutoregressiveConfig
from pretrainx.objectives.denoising import DenoisingConfig
from pretrainx.objectives.masked_lm import MaskedLmConfig
from pretrainx.objectives.span_corruption import SpanCorruptionConfig

LENGTH = observed.LENGTH
# The objective, its special tokens and the rows' length, as the parity tests have them.
TEXT = {
    "gpt2": (AutoregressiveConfig(),),
    "llama": (AutoregressiveConfig(),),
    "bert": (MaskedLmConfig(gather=False, max_predictions=LENGTH, special_tokens=False),),
    "roberta": (MaskedLmConfig(max_predictions=LENGTH), test_roberta.SPECIALS | {"pad": 4}),
    "t5-relu": (SpanCorruptionConfig(),),
    "t5-gated-gelu": (SpanCorruptionConfig(),),
    "bart": (DenoisingConfig(), test_bart.SPECIALS, observed.SOURCE),
}
PICTURES = {
    "vit": test_vit_parity.classifier,
    "vit_mae": test_vit_mae.autoencoder,
    "beit": test_beit_parity.predictor,
}
PAIRS = {"clip": test_clip.OBJECTIVE, "siglip": test_siglip.OBJECTIVE, "coca": test_coca.OBJECTIVE}
FORCED_FLOAT32 = ("llama", "t5-relu", "t5-gated-gelu")  # their references normalise in float32


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def nested(flat):
    """{"a/b": x} as {"a": {"b": x}}; a single "a" stays."""
    tree = {}
    for path, value in flat.items():
        *parents, last = path.split("/")
        node = tree
        for name in parents:
            node = node.setdefault(name, {})
        node[last] = value
    return tree


def check(name, found, loss, gradients, wanted_loss, wanted):
    tolerance = 1e-5 if name in FORCED_FLOAT32 else 1e-9
    assert abs(loss / wanted_loss - 1) < tolerance
    assert gradients.keys() == wanted.keys()
    largest = max(values[0] for values in wanted.values())
    for leaf, values in wanted.items():
        # A key's bias moves all scores of a query alike: nothing but rounding, which is small beside other gradients.
        error = np.abs(frozen.told(gradients[leaf]) - values).max() / max(values[0], 1e-3 * largest)
        assert error < 100 * tolerance, f"{leaf}: {error}"
    if found is not None:
        assert apart(*found) < tolerance


@pytest.mark.parametrize("name", TEXT)
def test_text(name):
    values, tensors, asked, wanted, wanted_loss, logits = frozen.read(frozen.DIRECTORY / f"{name}.npz")
    ours, asked = observed.Ours(directory.assemble(values, tensors, name), "float64", *TEXT[name]), nested(asked)
    loss, gradients = ours.gradients(asked["inputs"], asked["targets"], asked["weights"])
    real = asked["weights"]["nll"] > 0
    found = ours.outputs(asked["inputs"], "logits")["logits"][real][..., :: frozen.EVERY], logits[real]
    check(name, found, loss, gradients, wanted_loss, wanted)


@pytest.mark.parametrize("name", PICTURES)
def test_pictures(name):
    values, tensors, asked, wanted, wanted_loss, _ = frozen.read(frozen.DIRECTORY / f"{name}.npz")
    ours, asked = pictured.Ours(directory.assemble(values, tensors, name), PICTURES[name]), nested(asked)
    asked = {"extras": {}, "targets": {}} | asked
    _, loss, gradients = ours.scored(lambda params: jnp.zeros(()), **asked)
    check(name, None, loss, gradients, wanted_loss, wanted)


@pytest.mark.parametrize("name", PAIRS)
def test_pairs(name):
    values, tensors, asked, wanted, wanted_loss, _ = frozen.read(frozen.DIRECTORY / f"{name}.npz")
    ours, asked = paired.Ours(directory.assemble(values, tensors, name), PAIRS[name]), nested(asked)
    observation = ours.observation(asked["inputs"]["image"], asked["inputs"]["tokens"])
    check(name, None, *ours.gradients(observation), wanted_loss, wanted)


def test_they_are_small():
    files = list(frozen.DIRECTORY.glob("*.npz"))
    assert {file.stem for file in files} == {*TEXT, *PICTURES, *PAIRS}
    assert sum(file.stat().st_size for file in files) < 1_000_000
