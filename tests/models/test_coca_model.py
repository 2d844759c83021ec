"""CoCa: what vectors, captions and poolers depend on; decoding with a cache is the whole pass, token by token."""

import functools
from dataclasses import replace

import jax
import numpy as np
import pytest
from flax.core import meta

from contract.pairs import ABOUT, IMAGES
from pretrainx.core.errors import ConfigError
from pretrainx.models.coca import BLOCKS, POOLERS, CocaConfig, CocaTextConfig
from pretrainx.models.layers import Precision
from pretrainx.models.vit import VitConfig

LENGTH, VOCABULARY, QUERIES = 7, ABOUT.vocabulary.size, 4
SIZES = {"width": 16, "depth": 1, "heads": 2, "vocab_multiple": 16}
VIT = VitConfig(24, 1, 2, patch=4, pool="map")
CONFIGS = {
    pooler: CocaConfig(VIT, CocaTextConfig(**SIZES, decoder_depth=2, decoder_block=block), 12, QUERIES, 2, pooler)
    for pooler, block in zip(POOLERS, (BLOCKS[0], BLOCKS[0], BLOCKS[1]), strict=True)
}
RNG = np.random.default_rng(0)
IMAGE, TOKENS = RNG.standard_normal((3, 8, 8, 3)), RNG.integers(3, 50, (3, LENGTH))
HOW = (("start", 2), ("decode", ()))
each = pytest.mark.parametrize("name", CONFIGS)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@functools.cache
def build(name):
    return CONFIGS[name].build(IMAGES, ABOUT.vocabulary, LENGTH, Precision("float64", "float64"), 8, 1.0, None)


@functools.cache
def params(name):
    with jax.enable_x64(True):
        rng = np.random.default_rng(1)
        tree = meta.unbox(jax.jit(build(name).init)(jax.random.key(0), IMAGE, TOKENS)["params"])
        return jax.tree.map(lambda x: np.asarray(x + 0.2 * rng.standard_normal(x.shape)), tree)


@functools.partial(jax.jit, static_argnums=0)
def _read(name, tree, images, tokens):
    model = build(name)
    found = model.apply({"params": tree}, images, tokens)
    vector, memory = model.apply({"params": tree}, images, method="read")
    logits = model.apply({"params": tree}, found["hidden"], method="logits")[..., :VOCABULARY]
    return found | {"vector": vector, "memory": memory, "logits": logits}


def read(name, tree=None, images=IMAGE, tokens=TOKENS):
    return jax.tree.map(np.asarray, _read(name, tree or params(name), images, tokens))


def noised(name, wanted, row=slice(None)):
    """Parameters of which those below `wanted`, or a row of them, are others."""
    rng = np.random.default_rng(2)

    def other(path, leaf):
        leaf = leaf.copy()
        if "/".join(["", *(key.key for key in path), ""]).startswith(f"/{wanted}/"):
            leaf[row] += 0.5 * rng.standard_normal(leaf[row].shape)
        return leaf

    return jax.tree_util.tree_map_with_path(other, params(name))


def same(name, tree=None, **given):
    """The names of what is equal to the last digit when parameters or inputs are these."""
    before, after = read(name), read(name, tree, **given)
    return {key for key in before if np.array_equal(before[key], after[key])}


@each
def test_captions_do_not_depend_on_the_class_token(name):
    assert same(name, noised(name, "text/class_token")) == {"image", "hidden", "vector", "memory", "logits"}


@each
def test_vectors_do_not_depend_on_what_writes(name):
    for part in ("decoder", "final_norm", "unembed"):
        assert same(name, noised(name, part)) >= {"image", "text", "vector", "memory"}
        assert "logits" not in same(name, noised(name, part))


@each
def test_a_caption_s_vector_needs_no_picture_and_a_picture_s_no_caption(name):
    assert same(name, images=IMAGE + 1) == {"text"}
    assert same(name, tokens=(TOKENS - 3 + 1) % 47 + 3) == {"image", "vector", "memory"}


@each
def test_a_later_token_changes_no_earlier_logits(name):
    other = TOKENS.copy()
    other[:, 4] = (other[:, 4] - 3 + 1) % 47 + 3
    moved = np.abs(read(name, tokens=other)["logits"] - read(name)["logits"]).max(-1)
    assert (moved[:, :4] == 0).all() and (moved[:, 4:] > 1e-5).all()


@each
def test_poolers_read_what_they_say(name):
    """The picture's vector: of one query and the encoder's tokens, or the decoder's, or the first of all queries."""
    found = read(name)
    assert found["memory"].shape[1] == QUERIES - (name == "shared") and ("pool_contrastive" in params(name)) == (
        name != "shared"
    )
    rest, first = noised(name, "pool/query", slice(1, None)), noised(name, "pool/query", slice(1))
    if name == "shared":
        assert same(name, rest) == {"image", "text", "vector"}
        assert same(name, first) == {"memory", "hidden", "text", "logits"}
        norm = lambda self, images: self.image_norm(self.pool(self.image.blocks(self.image.embed(images))))
        tokens = build(name).apply({"params": params(name)}, IMAGE, method=norm)
        np.testing.assert_allclose(np.concatenate([found["vector"][:, None], found["memory"]], 1), tokens, atol=1e-12)
    else:
        assert ("vector" in same(name, rest)) == ("vector" in same(name, first)) == (name == "parallel")
        assert not {"memory", "logits"} & (same(name, rest) | same(name, first))
        assert same(name, noised(name, "pool_contrastive")) == {"memory", "hidden", "text", "logits"}


@each
def test_decoding_in_parts_is_the_whole_pass(name):
    start, decode = (
        jax.jit(functools.partial(build(name).apply, method=how), static_argnums=stay) for how, stay in HOW
    )
    given, found = {"params": params(name)}, []
    cache = start(given, IMAGE, LENGTH)
    for part in np.split(TOKENS, range(3, LENGTH), 1):  # three tokens, then one at a time
        logits, cache = decode(given, part, cache)
        found.append(logits[..., :VOCABULARY])
    np.testing.assert_allclose(np.concatenate(found, 1), read(name)["logits"], atol=1e-11)


def test_the_image_tower_has_no_head_that_nothing_trains():
    assert "map_head" not in params("cascade")["image"] and "final_norm" not in params("cascade")["image"]


@pytest.mark.parametrize(
    ("changes", "where"),
    [({"pooler": "shared", "queries": 1}, "config.model.queries"), ({"pooler_heads": 3}, "config.model.pooler_heads")],
)
def test_what_is_refused(changes, where):
    with pytest.raises(ConfigError) as caught:
        replace(CONFIGS["cascade"], **changes)
    assert caught.value.where == where
