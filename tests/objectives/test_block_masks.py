"""Block-wise masks: their counts, their form, and their law against a direct reading of the algorithm."""

import math
import random

import jax
import numpy as np
import pytest

from pretrainx.objectives import block_masks
from pretrainx.objectives.block_masks import block_mask


def drawn(masks, grid, count, *args):
    keys = jax.random.split(jax.random.key(0), masks)
    return np.asarray(jax.jit(jax.vmap(lambda key: block_mask(key, grid, count, *args)))(keys))


def by_hand(rng, grid, count, least):
    """(mask, attempts) of the algorithm with loops, a break and Python's own rounding."""
    mask, attempts = np.zeros((grid, grid), bool), 0
    while mask.sum() < count:
        left = count - mask.sum()
        for _ in range(10):
            attempts += 1
            area = rng.uniform(least, left)
            aspect = math.exp(rng.uniform(math.log(0.3), -math.log(0.3)))
            height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if height >= grid or width >= grid:
                continue
            top, first = rng.randint(0, grid - height), rng.randint(0, grid - width)
            block = np.zeros_like(mask)
            block[top : top + height, first : first + width] = True
            if 0 < (block & ~mask).sum() <= left:
                mask |= block
                break
        else:
            break
    return mask, attempts


def test_counts_are_those_of_the_paper():
    counts = drawn(4000, 14, 75).sum((1, 2))
    assert abs(counts.mean() - 74.47) < 0.06
    assert counts.max() == 75 and counts.min() >= 62
    assert 0.63 < (counts == 75).mean() < 0.71


@pytest.mark.parametrize(("grid", "count", "least"), [(14, 75, 16), (7, 19, 4)])
def test_law_is_that_of_the_algorithm(grid, count, least):
    rng = random.Random(1)
    wanted, attempts = zip(*(by_hand(rng, grid, count, least) for _ in range(1200)), strict=True)
    assert max(attempts) < block_masks.DRAWS  # so many are enough
    wanted, found = np.stack(wanted), drawn(2400, grid, count, least)
    counts = [masks.sum((1, 2)) for masks in (wanted, found)]
    assert abs(counts[0].mean() - counts[1].mean()) < 5 * counts[0].std() * (1 / 1200 + 1 / 2400) ** 0.5
    # How often each patch is hidden (rarely at the border), and how often a patch and its neighbour are alike.
    deviation = (0.25 * (1 / 1200 + 1 / 2400)) ** 0.5
    assert np.abs(wanted.mean(0) - found.mean(0)).max() < 4.5 * deviation
    alike = [(masks[:, 1:] == masks[:, :-1]).mean() for masks in (wanted, found)]
    assert abs(alike[0] - alike[1]) < 0.01


def test_no_more_than_asked_in_the_smallest_grids():
    counts = drawn(500, 4, 6, 2).sum((1, 2))
    assert counts.max() == 6 and counts.min() >= 4
