"""What a step of SimCLR keeps for a batch of 4,096 in 16 microbatches: never the views of all of it."""

import jax
import pytest

from pretrainx.core.images import Images
from pretrainx.models.layers import Precision
from pretrainx.models.vit import VitConfig
from pretrainx.objectives.augmentation import AugmentConfig
from pretrainx.objectives.simclr import SimclrConfig
from pretrainx.parallel.mesh import MeshConfig, make_mesh
from pretrainx.parallel.rules import Rules
from toys.steps import compiled

ROWS, SMALL, LARGE = 4096, 16, 48  # pictures, and their sides in pixels


def views(side: int) -> int:
    """Bytes of both views of all rows, float32."""
    return 2 * ROWS * side * side * 3 * 4


def temporary(side: int, microbatches: int) -> int:
    """Bytes that the compiled step keeps beside its arguments and results, on one device."""
    model = VitConfig(width=8, depth=1, heads=1, patch=16)
    config = SimclrConfig(hidden=(16,), out=16, views=AugmentConfig("simclr_small"))
    objective = config.build(model, Images(side), Precision())
    rules = Rules(make_mesh(MeshConfig(data=1), jax.devices()[:1]))
    return compiled(objective, rules, ROWS, microbatches=microbatches).memory_analysis().temp_size_in_bytes


@pytest.mark.slow
def test_views_are_drawn_inside_the_loop():
    """What grows with the pictures is pixels. In 16 microbatches it grows by less than half of all rows' views, in one pass by
    more than all of them; similarities of all rows to all are in both, and do not grow."""
    mebi, found = 2**20, {}
    for microbatches in (1, 16):
        small, large = temporary(SMALL, microbatches), temporary(LARGE, microbatches)
        found[microbatches] = large - small
        print(
            f"\n{ROWS} rows in {microbatches}: {small / mebi:.0f} MiB at {SMALL} px, {large / mebi:.0f} at {LARGE}",
            end="",
        )
    growth = views(LARGE) - views(SMALL)
    print(f"; their views {views(SMALL) / mebi:.0f} and {views(LARGE) / mebi:.0f}")
    assert found[1] > growth > 2 * found[16]
