"""A tiny model of each family on the tokenizer "bytes", in float64, for the tests of this directory."""

import functools

import jax
import numpy as np

from pretrainx.core import axes
from pretrainx.data.tokenizer import Tokenizer
from pretrainx.models.decoder import DecoderConfig
from pretrainx.models.encoder import EncoderConfig
from pretrainx.models.encoder_decoder import EncoderDecoderConfig
from pretrainx.models.layers import Precision
from pretrainx.objectives.autoregressive import AutoregressiveConfig
from pretrainx.objectives.denoising import DenoisingConfig
from pretrainx.objectives.masked_lm import MaskedLmConfig
from pretrainx.objectives.prefix_lm import PrefixLmConfig
from pretrainx.objectives.span_corruption import SpanCorruptionConfig
from pretrainx.parallel.mesh import MeshConfig, make_mesh
from pretrainx.parallel.rules import Rules
from pretrainx.training import state as states

TOKENIZER = Tokenizer.of_bytes(("mask", "bos", "cls", "sep"), 16)
LENGTH = 40
SIZES = {"width": 8, "depth": 1, "heads": 2, "initial_std": 0.3, "vocab_multiple": 16}
DECODER = DecoderConfig(**SIZES)
T5 = EncoderDecoderConfig(**SIZES, positions="relative", norm="rms", norm_first=True)
FAMILIES = {
    "autoregressive": (AutoregressiveConfig(), DECODER),
    "prefix_lm": (PrefixLmConfig(), DECODER),
    "masked_lm": (MaskedLmConfig(), EncoderConfig(**SIZES)),
    "masked_lm, two sentences": (MaskedLmConfig(next_sentence=True), EncoderConfig(**SIZES, types=2, pooler=True)),
    "span_corruption": (SpanCorruptionConfig(), T5),
    "span_corruption, decoder": (SpanCorruptionConfig(), DECODER),
    "denoising": (DenoisingConfig(), EncoderDecoderConfig(**SIZES)),
}


@functools.cache
def rules():
    return Rules(make_mesh(MeshConfig(), jax.devices()[:1]))


@functools.cache
def made(name):
    """(objective, parameters with noise); needs float64 switched on."""
    config, model = FAMILIES[name]
    objective = config.build(model, TOKENIZER.vocabulary, LENGTH, Precision("float64", "float64"))
    params = axes.unbox(jax.jit(objective.init)(jax.random.key(0), states.example_batch(objective, 2)))
    rng = np.random.default_rng(1)
    return objective, jax.tree.map(lambda x: x + 0.1 * rng.standard_normal(x.shape), params)


def encode(text):
    return TOKENIZER.encode_batch([text])[0]


def batch(objective, rows=3, seed=0):
    """Rows of words that come again and again, whole; every field that the objective reads."""
    rng = np.random.default_rng(seed)
    text = encode(" ".join(rng.choice(["alpha", "beta.", "gamma"], rows * LENGTH)))
    fields = objective.reads.spec(rows)
    tokens = text[: rows * objective.reads.width].reshape(rows, -1)
    made = {
        "tokens": tokens,
        "other": tokens[::-1],
        "valid": np.ones(rows, bool),
        "length": np.full(rows, tokens.shape[1], np.int32),
        "words": TOKENIZER.word_starts[tokens],
        "sentences": TOKENIZER.sentence_ends[tokens],
    }
    return {name: np.asarray(made[name], spec.dtype) for name, spec in fields.items()}
