"""Rules: what is refused, what falls back, and that jit sees a change of the table inside scan and remat."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from pretrainx.core import axes
from pretrainx.core.errors import ConfigError
from pretrainx.models.decoder import Decoder, DecoderConfig
from pretrainx.parallel.mesh import MeshConfig, make_mesh
from pretrainx.parallel.rules import TABLE, Rules, constrain

MODEL = Decoder(DecoderConfig(width=16, depth=2, heads=2, remat="full", vocab_multiple=16), 40, 8)
TOKENS = jnp.zeros((8, 8), jnp.int32)


@functools.cache
def cube(table=TABLE):
    return Rules(make_mesh(MeshConfig(2, 2, 2)), table)


def replaced(**rows):
    return tuple((name, rows.get(name, axes)) for name, axes in TABLE)


@functools.cache
def params():
    return axes.unbox(MODEL.init(jax.random.key(0), TOKENS)["params"])


def test_unknown_name_refused():
    with pytest.raises(ConfigError, match="unknown logical axis 'lenght'") as caught:
        cube().spec(("batch", "lenght"), (8, 8))
    assert "'length'" in caught.value.why and caught.value.exit_code == 2
    with cube().bound(), pytest.raises(ConfigError, match="unknown logical axis"):
        jax.jit(lambda x: constrain(x, "batch", "act_embde"))(jnp.zeros((8, 8)))


def test_mesh_axis_used_twice_refused():
    """A weight's `embed` on an activation: fsdp would split both its batch and its width."""
    with pytest.raises(ConfigError, match="mesh axis 'fsdp' is used twice") as caught:
        cube().spec(("batch", "length", "embed"), (8, 8, 16))
    assert "embed" in caught.value.where
    one = Rules(make_mesh(MeshConfig(8)))
    assert one.spec(("batch", "embed"), (8, 16)) == PartitionSpec("data", None), "an axis of size 1 may be used freely"


def test_wrong_number_of_names_refused():
    with pytest.raises(ValueError, match="2 axis names"):
        cube().spec(("batch", "length"), (8, 8, 16))


def test_spec():
    assert cube().spec(("layers", "embed", "heads", "head_dim"), (2, 16, 2, 8)) == PartitionSpec(
        None, "fsdp", "tensor", None
    )
    assert cube().spec(("batch", "length", "act_embed"), (8, 8, 16)) == PartitionSpec(("data", "fsdp"), None, None)
    assert cube().spec((None, None), (3, 5)) == PartitionSpec(None, None)
    assert cube().rows((8, 3)).spec == PartitionSpec(("data", "fsdp"), None)
    assert cube().batch_ways() == 4 and cube().replicated().spec == PartitionSpec()


def test_indivisible_replicates_and_is_named():
    """Only the dimension that does not divide falls back; the fallback can be told with its sizes."""
    names, shape = ("embed", "heads", "head_dim"), (16, 5, 8)
    assert cube().spec(names, shape) == PartitionSpec("fsdp", None, None)
    assert cube().indivisible(names, shape) == ["heads: 5 over 2 ways"]
    assert cube().indivisible(("batch", "vocab"), (6, 51)) == ["batch: 6 over 4 ways", "vocab: 51 over 2 ways"]
    assert cube().indivisible(names, (16, 4, 8)) == []
    placed = jax.device_put(jnp.zeros(shape), cube().sharding(names, shape))
    assert placed.addressable_shards[0].data.shape == (8, 5, 8)


def blocks(params, x):
    return MODEL.apply({"params": params}, x, method="blocks")


def test_spec_of_an_activation():
    """What a scanned, rematerialised block returns on mesh (2, 2, 2) is split over its rows."""
    run = jax.jit(lambda params, tokens: blocks(params, MODEL.apply({"params": params}, tokens, method="embed")))
    with cube().bound():
        y = run(params(), TOKENS)
    wanted = NamedSharding(cube().mesh, PartitionSpec(("data", "fsdp"), None, None))
    assert y.sharding.is_equivalent_to(wanted, 3), y.sharding
    assert tuple(y.sharding.spec)[0] == ("data", "fsdp") and not any(tuple(y.sharding.spec)[1:])
    assert y.addressable_shards[0].data.shape == (2, 8, 16)


def test_two_tables_give_two_programs():
    """The same jitted function under two tables gives two shardings; equal tables share one trace."""
    traces = 0

    @jax.jit
    def run(params, x):
        nonlocal traces
        traces += 1
        return blocks(params, x)

    x = jnp.zeros((8, 8, 16))
    wide = replaced(act_embed=("tensor",), act_heads=(), act_mlp=())
    found = []
    for table in (TABLE, wide, tuple(TABLE), tuple(wide)):
        with Rules(make_mesh(MeshConfig(2, 2, 2)), table).bound():
            y = run(params(), x)
            found.append(y.sharding.shard_shape(y.shape))
    usual, split = (2, 8, 16), (2, 8, 8)
    assert found == [usual, split, usual, split]
    assert traces == 2
    run(params(), x)
    assert traces == 3, "outside every `bound` the function is traced once more, without constraints"


def test_equal_rules_are_equal():
    again = Rules(make_mesh(MeshConfig(2, 2, 2)), tuple((name, tuple(axes)) for name, axes in TABLE))
    assert again == cube() and hash(again) == hash(cube())
    assert cube(replaced(mlp=())) != cube()


def test_rules_without_an_axis_split_nothing_over_it():
    names, shape = ("batch", "embed"), (8, 16)
    apart = cube(replaced(batch=("data",))).without("fsdp")
    assert apart.spec(names, shape) == PartitionSpec("data", None) and apart.mesh == cube().mesh
    assert cube().without("data").spec(("batch",), (8,)) == PartitionSpec("fsdp")


def test_constrain_without_rules_is_the_identity():
    x = jnp.ones((3, 5))
    assert constrain(x, "batch", "length") is x
    assert constrain(x, "no", "such", "names") is x
    with cube().bound():
        assert constrain(jnp.ones((8, 8)), "batch", "length").sharding.spec == PartitionSpec(("data", "fsdp"), None)
    assert constrain(x, "batch", "length") is x, "the binding ends with the context"
