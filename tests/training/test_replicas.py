"""A device that computed other numbers than its neighbours: its copy of a leaf differs, and nothing of that is saved."""

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from pretrainx.parallel.mesh import MeshConfig, make_mesh
from pretrainx.training.checksum import diverged, examine


def leaf(spec, wrong=None):
    """float32[8, 4] on eight devices; on device `wrong` one number of its part is off."""
    sharding = jax.sharding.NamedSharding(make_mesh(MeshConfig(data=2, fsdp=4)), spec)
    whole, parts = np.arange(32, dtype=np.float32).reshape(8, 4), []
    for device, index in sharding.addressable_devices_indices_map(whole.shape).items():
        part = whole[index].copy()
        part[0, 0] += device.id == wrong
        parts.append(jax.device_put(part, device))
    return jax.make_array_from_single_device_arrays(whole.shape, sharding, parts)


@pytest.mark.parametrize("spec", [PartitionSpec(), PartitionSpec("fsdp"), PartitionSpec(("data", "fsdp"))])
def test_equal_copies(spec):
    assert diverged(examine({"a": leaf(spec)})[0]) == []


@pytest.mark.parametrize("wrong", [0, 5])
def test_a_copy_apart_is_named(wrong):
    assert diverged(examine({"a": leaf(PartitionSpec()), "b": leaf(PartitionSpec(), wrong)})[0]) == ["b"]
