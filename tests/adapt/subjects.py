"""Small models of text that wrappers are put around, with parameters that no initial value hides."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from pretrainx.core import axes, paths
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.models.decoder import DecoderConfig
from pretrainx.models.encoder import EncoderConfig
from pretrainx.models.encoder_decoder import EncoderDecoderConfig
from pretrainx.models.layers import Precision
from pretrainx.objectives.autoregressive import AutoregressiveConfig
from pretrainx.objectives.masked_lm import MaskedLmConfig
from pretrainx.objectives.prefix_lm import PrefixLmConfig
from pretrainx.training import state as states

ROWS, LENGTH, WIDTH = 3, 7, 12
SIZES = {"width": WIDTH, "depth": 2, "heads": 3, "max_length": 16, "vocab_multiple": 8, "initial_std": 0.3}
VOCABULARY = Vocabulary(
    19, (("pad", 0), ("eos", 1), ("mask", 2), ("bos", 3), ("cls", 4), ("sep", 5)), sentinels=(18, 17)
)
GPT2 = DecoderConfig(**SIZES)
LLAMA = replace(GPT2, positions="rotary", norm="rms", gated=True, bias=False, kv_heads=1, tied=False)
BERT = EncoderConfig(**SIZES, types=2)
T5 = EncoderDecoderConfig(
    **SIZES, positions="relative", norm_first=True, norm="rms", gated=True, bias=False, tied=False, embedding_norm=False
)
TOKENS = np.random.default_rng(0).integers(6, 17, (ROWS, LENGTH)).astype(np.int32)
TOKENS[1, 5:] = 0


def built(config, objective=None, length=LENGTH, **given):
    kinds = {
        DecoderConfig: AutoregressiveConfig(),
        EncoderConfig: MaskedLmConfig(),
        EncoderDecoderConfig: PrefixLmConfig(),
    }
    kind = objective or kinds[type(config)]
    return kind.build(config, VOCABULARY, length, Precision("float64", "float64"), **given)


def initial(objective, seed=0):
    """Parameters as a run starts with them."""
    batch = states.example_batch(objective, 2)
    make = lambda key: objective.start(key, objective.init(key, batch), batch)[0]
    return axes.unbox(jax.jit(make)(jax.random.key(seed)))


def noisy(params, scale=0.3):
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda x: x + scale * rng.standard_normal(x.shape), params)


def base_of(params, objective):
    """The part of a wrapper's parameters that the objective knows."""
    batch = states.example_batch(objective, 2)
    return paths.restrict(params, like=jax.eval_shape(objective.init, jax.random.key(0), batch))


def logits(objective, params, **inputs):
    given = inputs or {"tokens": TOKENS}
    given = {name: jnp.asarray(array) for name, array in given.items()}
    run = jax.jit(lambda params: objective.outputs(params, {}, given, ("logits",))["logits"])
    return np.asarray(run(params))


def shapes(objective):
    """{path: shape} of all parameters."""
    found = states.layout(objective, 2)
    return {path: leaf.shape for path, leaf in paths.leaves(found.params)}


def trained(objective):
    """(how many parameters are trained, their paths)"""
    found = {path: int(np.prod(shape)) for path, shape in shapes(objective).items() if objective.trains(path)}
    return sum(found.values()), set(found)
