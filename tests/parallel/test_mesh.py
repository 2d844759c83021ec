"""Meshes: -1 takes what is left, products that do not fit are refused, axes are Auto."""

import jax
import pytest
from jax.sharding import AxisType

from pretrainx.core.errors import ConfigError
from pretrainx.parallel.mesh import AXES, MeshConfig, make_mesh, sizes


def test_fill():
    assert sizes(MeshConfig(), 8) == (8, 1, 1, 1, 1, 1)
    assert sizes(MeshConfig(2, -1, 2), 8) == (2, 2, 2, 1, 1, 1)
    assert sizes(MeshConfig(1, 1, 1, context=4, stage=-1), 8) == (1, 1, 1, 4, 1, 2)
    assert sizes(MeshConfig(), 1) == (1,) * 6


@pytest.mark.parametrize(
    "config", [MeshConfig(3), MeshConfig(2, 2), MeshConfig(-1, 3), MeshConfig(16), MeshConfig(-1, 16)]
)
def test_wrong_product_refused(config):
    with pytest.raises(ConfigError, match="there are 8 devices") as caught:
        sizes(config, 8)
    assert caught.value.exit_code == 2 and "config.mesh" in str(caught.value)


@pytest.mark.parametrize("config", [MeshConfig(-1, -1), MeshConfig(0)])
def test_unfillable_refused(config):
    with pytest.raises(ConfigError, match="cannot be filled"):
        make_mesh(config)


def test_axes_are_auto():
    """Explicit axes would turn every constraint into an assertion."""
    mesh = make_mesh(MeshConfig(2, 2, 2))
    assert mesh.axis_names == AXES == ("data", "fsdp", "tensor", "context", "expert", "stage")
    assert mesh.axis_types == (AxisType.Auto,) * 6
    assert dict(mesh.shape) == {"data": 2, "fsdp": 2, "tensor": 2, "context": 1, "expert": 1, "stage": 1}
    assert make_mesh(MeshConfig(1, 2), jax.devices()[:2]).size == 2
