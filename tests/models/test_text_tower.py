"""The text tower: which tokens its vector depends on, by each way of pooling; what the class token sees; decoding in parts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from contract.pairs import ABOUT, IMAGES
from pretrainx.core.errors import ConfigError
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.models.attention import Cache
from pretrainx.models.dual_encoder import DualEncoderConfig
from pretrainx.models.layers import Precision
from pretrainx.models.text_tower import TextTowerConfig
from pretrainx.models.vit import VitConfig

LENGTH, WIDE = 8, Precision("float64", "float64")
PAD, END, BEGIN = 0, 1, 2
SIZES = {"width": 16, "depth": 2, "heads": 2}
CONFIGS = {
    "end": TextTowerConfig(**SIZES),
    "last": TextTowerConfig(**SIZES, causal=False, pool="last"),
    "class": TextTowerConfig(**SIZES, pool="class"),
    "shifted": TextTowerConfig(**SIZES, pool="class", shifted_class_mask=True),
}
TOKENS = np.array([[BEGIN, 7, 8, 9, END, PAD, PAD, PAD]])


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def build(name):
    return CONFIGS[name].build(ABOUT.vocabulary, LENGTH, WIDE)


@functools.cache
def params(name):
    with jax.enable_x64(True):
        rng = np.random.default_rng(1)
        tree = meta.unbox(build(name).init(jax.random.key(0), TOKENS)["params"])
        return jax.tree.map(lambda x: x + 0.3 * rng.standard_normal(x.shape), tree)


@functools.partial(jax.jit, static_argnums=0)
def read(name, tree, tokens):
    return build(name).apply({"params": tree}, tokens)


def with_token(place, token):
    other = TOKENS.copy()
    other[:, place] = token
    return other


def moved(name, tokens=TOKENS, tree=None):
    """(how far the caption's vector moves, how far each token's state)"""
    before, after = read(name, params(name), TOKENS), read(name, tree or params(name), tokens)
    far = lambda one, other: np.abs(np.asarray(one - other)).max((0, -1))
    return far(before[0], after[0]), far(before[1], after[1])


def changed(name, path, row=None):
    """Parameters with one table or vector, or one row of it, moved."""
    *parents, leaf = path.split("/")
    tree = jax.tree.map(np.array, params(name))
    inner = functools.reduce(dict.__getitem__, parents, tree)
    inner[leaf][slice(None) if row is None else row] += np.random.default_rng(2).standard_normal(SIZES["width"])
    return tree


@pytest.mark.parametrize("token", [END, 7])
def test_the_vector_is_that_of_the_first_end(token):
    for place in range(1, 4):
        assert moved("end", with_token(place, 11))[0] > 1e-3
    for place in range(5, LENGTH):
        assert moved("end", with_token(place, token))[0] == 0


def test_the_vector_is_that_of_the_last_place_which_sees_padding():
    for place in range(1, LENGTH):
        assert moved("last", with_token(place, 11))[0] > 1e-3
    assert moved("last", tree=changed("last", "token/table", PAD))[0] > 1e-3
    vector, states = read("last", params("last"), TOKENS)
    norm = lambda x: build("last").apply({"params": params("last")}, x, method=lambda self, x: self.final_norm(x))
    np.testing.assert_allclose(vector, norm(states[:, -1]), rtol=1e-12)


@pytest.mark.parametrize(("name", "causal"), [("end", True), ("class", True), ("last", False)])
def test_which_tokens_see_which(name, causal):
    states = moved(name, with_token(3, 11))[1]
    assert (states[3:] > 1e-4).all() and ((states[:3] == 0) if causal else (states[:3] > 1e-4)).all()


def test_the_class_token_sees_all_tokens_but_padding_and_none_sees_it():
    for place in range(5):
        assert moved("class", with_token(place, 11))[0] > 1e-3
    assert moved("class", tree=changed("class", "token/table", PAD))[0] == 0
    for path, row in (("class_token", None), ("position/table", LENGTH)):
        vector, states = moved("class", tree=changed("class", path, row))
        assert vector > 1e-3 and (states == 0).all()


def test_released_weights_see_the_mask_one_place_too_far():
    """The first padding is seen; without padding there is no difference."""
    assert moved("shifted", tree=changed("shifted", "token/table", PAD))[0] > 1e-3
    full = np.where(TOKENS == PAD, 9, TOKENS)
    one, other = (read(name, params("class"), full)[0] for name in ("class", "shifted"))
    np.testing.assert_allclose(one, other, rtol=1e-12)


@pytest.mark.parametrize("name", ["end", "class"])
def test_states_token_by_token_are_those_of_the_whole_row(name):
    """Of those that are no padding: that sees less of itself."""
    config, decode = CONFIGS[name], jax.jit(functools.partial(build(name).apply, method="states"))
    empty = jnp.zeros((config.depth, 1, LENGTH, config.shared_heads, config.head_size))
    cache, found = Cache(empty, empty, jnp.zeros(config.depth, jnp.int32)), []
    for part in np.split(TOKENS, [1, 2, 3, 4], 1):
        states, cache = decode({"params": params(name)}, part, cache)
        found.append(states)
    whole = read(name, params(name), TOKENS)[1]
    np.testing.assert_allclose(np.concatenate(found, 1)[:, :5], whole[:, :5], atol=1e-12)


def test_what_is_refused():
    with pytest.raises(ValueError, match="9 tokens, but there are positions for 8"):
        jax.eval_shape(build("end").init, jax.random.key(0), np.zeros((1, 9), np.int32))
    for missing in ("eos", "pad"):
        known = Vocabulary(50, tuple(each for each in (("pad", 0), ("eos", 1)) if each[0] != missing))
        with pytest.raises(ConfigError, match=missing):
            CONFIGS["end"].build(known, LENGTH, WIDE)
    sizes = VitConfig(**SIZES, patch=4)
    for config, where in (
        (DualEncoderConfig(sizes, CONFIGS["class"], 16), "config.model.text.pool"),
        (DualEncoderConfig(sizes, CONFIGS["last"], 24, "text"), "config.model.embedding"),
    ):
        with pytest.raises(ConfigError) as caught:
            config.build(IMAGES, ABOUT.vocabulary, LENGTH, WIDE, 8, 1.0, None)
        assert caught.value.where == where
