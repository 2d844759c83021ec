"""The checksum notices every flipped bit and does not depend on the sharding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from pretrainx.parallel.mesh import MeshConfig, make_mesh
from pretrainx.parallel.rules import Rules
from pretrainx.training.checksum import checksum, examine

sums = jax.jit(checksum)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "uint32", "bool"])
def test_every_bit_counts(dtype):
    values = np.asarray(jnp.arange(16 * 4).reshape(16, 4) % 5).astype(jnp.dtype(dtype))
    whole = int(sums(values))
    raw = values.view(np.uint8)
    seen = 0
    for byte in range(raw.size):
        for bit in range(1 if dtype == "bool" else 8):
            flipped = values.copy()
            flipped.view(np.uint8).reshape(-1)[byte] ^= 1 << bit
            assert int(sums(flipped)) != whole, (byte, bit)
            seen += 1
    assert seen == raw.size * (1 if dtype == "bool" else 8)


def test_float64_halves():
    with jax.enable_x64(True):
        values = np.linspace(0, 1, 6)
        whole = int(jax.jit(checksum)(values))
        for bit in range(64):
            flipped = values.copy()
            flipped.view(np.uint64)[3] ^= np.uint64(1) << np.uint64(bit)
            assert int(jax.jit(checksum)(flipped)) != whole


def test_order_counts():
    assert int(sums(np.array([1.0, 2.0], np.float32))) != int(sums(np.array([2.0, 1.0], np.float32)))


def test_any_sharding():
    values = np.random.default_rng(0).standard_normal((8, 12, 4)).astype(np.float32)
    rules = Rules(make_mesh(MeshConfig(2, 2, 2)))
    found = set()
    for spec in (
        PartitionSpec(),
        PartitionSpec("data"),
        PartitionSpec(None, "fsdp", "tensor"),
        PartitionSpec("tensor", "data"),
    ):
        found.add(int(sums(jax.device_put(values, jax.sharding.NamedSharding(rules.mesh, spec)))))
    assert len(found) == 1
    words = values.reshape(-1).view(np.uint32).astype(np.uint64)  # the formula again, in numpy
    assert found == {int((words * (2 * np.arange(words.size, dtype=np.uint64) + 1)).sum() % 2**32)}


def test_finiteness():
    tree = {"a": jnp.ones(3), "b": {"c": jnp.arange(4)}}
    assert bool(examine(tree)[1])
    assert not bool(examine(tree | {"a": jnp.array([1.0, jnp.nan, 1.0])})[1])
