"""UL2's default mixture: what each denoiser reads and writes, one set of parameters, modes that must be in the vocabulary."""

import jax
import numpy as np
import pytest

from pretrainx.adapt.mixture_of_denoisers import MixtureOfDenoisersConfig
from pretrainx.core.errors import ConfigError
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.models.decoder import DecoderConfig
from pretrainx.models.encoder import EncoderConfig
from pretrainx.models.encoder_decoder import EncoderDecoderConfig
from pretrainx.models.layers import Precision
from pretrainx.training import state as states

NAMES = ("pad", "eos", "regular", "extreme", "sequential")
SENTINELS = tuple(range(99, 79, -1))
SPECIALS = tuple((name, number) for number, name in enumerate(NAMES))
VOCABULARY = Vocabulary(100, SPECIALS, 0, SENTINELS)
SIZE = dict(width=16, depth=1, heads=2)
MODELS = {"encoder_decoder": EncoderDecoderConfig(**SIZE), "decoder": DecoderConfig(**SIZE)}


def built(model, vocabulary=VOCABULARY):
    return MixtureOfDenoisersConfig().build(model, vocabulary, 64, Precision())


@pytest.mark.parametrize("model", MODELS)
def test_what_each_denoiser_reads_and_writes(model):
    """Rows of 64: Raffel et al.'s span arithmetic at 15 % and 50 %; a prefix is cut anywhere."""
    mixture = built(MODELS[model])
    # A decoder reads a prefix and what follows it as one row.
    widths = [getattr(task, "widths", "one row") for _, task, _ in mixture.tasks]
    assert widths == [(64, 14), (64, 62), "one row" if model == "decoder" else (64, 63)]
    assert [(name, share) for name, _, share in mixture.tasks] == [
        ("regular", 0.5),
        ("extreme", 0.25),
        ("sequential", 0.25),
    ]
    params = jax.eval_shape(mixture.init, jax.random.key(0), states.example_batch(mixture, 8))
    tables = [
        leaf.shape[0] for path, leaf in jax.tree.leaves_with_path(params) if "position" in jax.tree_util.keystr(path)
    ]
    # A decoder reads source and targets in one row: the longest of them has 64 + 62 places.
    assert tables == ([126] if model == "decoder" else [64, 64])


def test_the_mode_stands_in_front():
    mixture, rng = built(MODELS["encoder_decoder"]), np.random.default_rng(0)
    batch = {name: task.batch_spec(4) for name, task, _ in mixture.tasks}
    batch = jax.tree.map(lambda leaf: rng.integers(5, 79, leaf.shape).astype(leaf.dtype), batch)
    keys = {name: jax.random.split(jax.random.key(0), 4) for name in batch}
    seen = mixture.observe_rows(keys, batch, 0)
    for name in NAMES[2:]:
        mode, source = VOCABULARY.special(name), np.asarray(seen.inputs[name].inputs["source"])
        assert (source[:, 0] == mode).all() and (source[:, 1:] != mode).all()


def test_refusals():
    with pytest.raises(ConfigError, match="extreme") as caught:
        built(MODELS["encoder_decoder"], Vocabulary(100, SPECIALS[:3], 0, SENTINELS))
    assert caught.value.where == "config.data.specials"
    with pytest.raises(ConfigError, match="or a decoder"):
        built(EncoderConfig(**SIZE))
