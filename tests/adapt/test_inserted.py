"""Adapters, prefixes and IA3 against the same computed by hand, and how many parameters they have."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from adapt.subjects import (
    BERT,
    GPT2,
    LENGTH,
    LLAMA,
    ROWS,
    T5,
    TOKENS,
    WIDTH,
    base_of,
    built,
    initial,
    logits,
    noisy,
    shapes,
    trained,
)

from pretrainx.adapt.adapter import AdapterConfig
from pretrainx.adapt.ia3 import Ia3Config
from pretrainx.adapt.lora import LoraConfig
from pretrainx.adapt.prefix import PrefixConfig
from pretrainx.core.errors import ConfigError
from pretrainx.core.images import Images
from pretrainx.models.attention import Cache
from pretrainx.models.layers import ACTIVATIONS, Norm, Precision
from pretrainx.models.resnet import ResNetConfig
from pretrainx.models.stack import MLP, Around, Attention
from pretrainx.objectives.classification import ClassificationConfig
from pretrainx.training import state as states

close = lambda a, b, tolerance=1e-11: np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)
DOUBLE = Precision("float64", "float64")


@pytest.mark.parametrize(
    ("layout", "config", "adapters", "norms"),
    [
        ("houlsby", GPT2, 2 * 2, 5 * 2),
        ("pfeiffer", GPT2, 2, 0),
        ("houlsby", T5, 2 * 2 + 2 * 3, 2 * 2 + 2 * 3 + 2),  # RMS norms have no bias
        ("houlsby", BERT, 2 * 2, (1 + 4 + 1) * 2),
    ],
    ids=["houlsby", "pfeiffer", "encoder-decoder", "encoder"],
)
def test_count_of_adapters(layout, config, adapters, norms):
    """2 m d + m + d for each; with Houlsby's layout the norms are trained too."""
    count, found = trained(AdapterConfig(layout, width=5).wrap(built(config)))
    assert count == adapters * (2 * 5 * WIDTH + 5 + WIDTH) + norms * WIDTH
    assert all("adapter_" in path or path.split("/")[-2].endswith("norm") for path in found)


@pytest.mark.parametrize("layout", ["houlsby", pytest.param("pfeiffer", marks=pytest.mark.slow)])
@pytest.mark.parametrize("config", [GPT2, pytest.param(BERT, marks=pytest.mark.slow)], ids=["pre-norm", "post-norm"])
def test_adapters_by_hand(layout, config):
    """Behind the branch, before the sum (and before the norm behind the sum): blocks put together from their parts."""
    inner = built(config)
    objective = AdapterConfig(layout, width=5, activation="relu").wrap(inner)
    params = noisy(initial(objective))
    base, stack = base_of(params, inner), params["layers"]
    run = lambda method, *args: inner.model.apply({"params": base}, *args, method=method)
    x, segments = run("embed", jnp.asarray(TOKENS)), jnp.asarray(TOKENS != 0, jnp.int32)
    segments = None if config is GPT2 else segments

    def adapted(y, place):
        if "adapter_down" not in place:
            return y
        low = ACTIVATIONS["relu"](y @ place["adapter_down"] + place["adapter_down_bias"])
        return y + low @ place["adapter_up"] + place["adapter_up_bias"]

    assert ("adapter_down" in stack["attention"]["out"]) == (layout == "houlsby") and "adapter_down" in stack["mlp"][
        "down"
    ]
    spread = config.spread(config.depth)

    def branch(y, one, name):
        if name == "mlp":
            return MLP(config, spread, DOUBLE).apply({"params": one["mlp"]}, y)
        attention = Attention(config, spread, config is GPT2, DOUBLE)
        return attention.apply({"params": one["attention"]}, y, None, segments)[0]

    def normed(y, one, name):
        return Norm(config.norm, config.norm_epsilon, DOUBLE).apply({"params": one[f"{name}_norm"]}, y)

    for layer in range(config.depth):
        one = jax.tree.map(lambda leaf, layer=layer: leaf[layer], stack)
        for name, last in (("attention", "out"), ("mlp", "down")):
            y = adapted(branch(normed(x, one, name) if config.norm_first else x, one, name), one[name][last])
            x = x + y if config.norm_first else normed(x + y, one, name)
    wanted = run("head", x)[..., : inner.vocabulary.size]
    real = TOKENS != 0 if config is BERT else np.ones_like(TOKENS, bool)
    close(logits(objective, params)[real], np.asarray(wanted)[real])


@pytest.mark.slow
@pytest.mark.rotated
@pytest.mark.parametrize("method", [AdapterConfig(width=4), Ia3Config()], ids=["adapter", "ia3"])
def test_identity_at_first(method):
    inner = built(GPT2)
    objective = method.wrap(inner)
    params = initial(objective)
    np.testing.assert_array_equal(logits(objective, params), logits(inner, base_of(params, inner)))


@pytest.mark.parametrize("config", [GPT2, pytest.param(T5, marks=pytest.mark.slow)], ids=["gpt2", "t5"])
def test_gains_are_those_of_kernels(config):
    """A gain behind keys and values is one of their columns, and before the MLP's last kernel one of its rows."""
    inner = built(config)
    objective = Ia3Config().wrap(inner)
    params = noisy(initial(objective))

    def scaled(tree):
        if "ia3_gain" in tree:
            gain, kernel = tree["ia3_gain"], tree["kernel"]
            if gain.shape[-1] == 4 * WIDTH:
                return {**tree, "kernel": kernel * gain[..., None]}
            return {name: x * (gain[:, None] if name == "kernel" else gain) for name, x in tree.items()}
        return {name: scaled(value) if isinstance(value, dict) else value for name, value in tree.items()}

    inputs = {"source": TOKENS, "tokens": TOKENS} if config is T5 else {"tokens": TOKENS}
    close(logits(objective, params, **inputs), logits(inner, base_of(scaled(params), inner), **inputs))
    heads = 2 * WIDTH + 4 * WIDTH
    assert trained(objective)[0] == (2 * heads if config is GPT2 else 2 * heads + 2 * (heads + 2 * WIDTH))


@pytest.mark.parametrize("config", [LLAMA, pytest.param(GPT2, marks=pytest.mark.slow)], ids=["llama", "gpt2"])
def test_a_prefix_is_a_cache_that_is_not_empty(config):
    """Keys and values that a cache holds before the first token; tokens keep their positions."""
    inner = built(config)
    objective = PrefixConfig(length=3, std=0.5).wrap(inner)
    params = initial(objective)
    held = [params["layers"]["attention"][name] for name in ("prefix_key", "prefix_value")]
    behind = lambda prefix: jnp.pad(
        jnp.broadcast_to(prefix[:, None], (2, ROWS, *prefix.shape[1:])), [(0, 0), (0, 0), (0, LENGTH), (0, 0), (0, 0)]
    )
    cache = Cache(*map(behind, held), jnp.int32(3))
    run = lambda method, *args: inner.model.apply({"params": base_of(params, inner)}, *args, method=method)
    x = run("embed", jnp.asarray(TOKENS))
    x, _ = run("through", x, Around(turns=config.turns(jnp.arange(LENGTH)[None], x.dtype)), cache)
    found = logits(objective, params)
    close(found, run("head", x)[..., : inner.vocabulary.size])
    assert np.abs(found - logits(inner, base_of(params, inner))).max() > 1e-3
    assert trained(objective)[0] == 2 * 2 * 3 * config.shared_heads * 4


@pytest.mark.slow
@pytest.mark.rotated
def test_a_prefix_of_an_encoder_is_seen_from_everywhere_and_padding_is_not():
    objective = PrefixConfig(length=3, std=0.5).wrap(built(BERT))
    params = initial(objective)
    found = logits(objective, params)
    alone = logits(objective, params, tokens=TOKENS[1:2, :5])
    close(found[1:2, :5], alone)
    params["layers"]["attention"]["prefix_value"] += 1.0
    assert np.abs(logits(objective, params) - found)[TOKENS != 0].max(-1).min() > 1e-3


def test_prefixes_and_packed_documents_are_refused():
    with pytest.raises(ConfigError, match="a prefix cannot stand before several documents"):
        PrefixConfig().wrap(built(GPT2, segmented=True))


@pytest.mark.parametrize(
    "method", [AdapterConfig(), Ia3Config(), PrefixConfig(), LoraConfig()], ids=lambda m: type(m).__name__
)
def test_networks_without_a_place_are_refused(method):
    images = Images(8, 3, ("a", "b"), (0.5, 0.4, 0.6), (0.3, 0.2, 0.25))
    network = ClassificationConfig().build(ResNetConfig(stages=(1,), width=8), images, Precision())
    with pytest.raises(ConfigError) as caught:
        states.layout(method.wrap(network), 2)
    assert caught.value.where.startswith("config.adapt") and "full" in caught.value.do


@pytest.mark.slow
@pytest.mark.rotated
def test_several_together():
    """Each trains what the others add, and all stand in the model."""
    objective = AdapterConfig("pfeiffer", 4).wrap(Ia3Config().wrap(LoraConfig(rank=2).wrap(built(GPT2))))
    count, found = trained(objective)
    kinds = {path.split("/")[-1].split("_")[0] for path in found}
    assert kinds == {"adapter", "ia3", "lora"}
    assert count == sum(int(np.prod(shapes(objective)[path])) for path in found)
