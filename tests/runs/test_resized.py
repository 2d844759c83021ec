"""Tables of another run, fitted: words by their spelling, positions, grids of patches."""

import numpy as np
import pytest

from pretrainx.runs.resized import grid_of, resizing

RNG = np.random.default_rng(0)


def change(names, old, new, words=None, array=None):
    array = RNG.standard_normal(old) if array is None else array
    return array, resizing("a/table", names, old, new, words)(array)


def test_words_are_taken_by_their_ids_there_and_new_ones_start_as_the_mean():
    table, found = change(("vocab", "embed"), (5, 3), (4, 3), np.array([2, -1, 0]))
    assert np.array_equal(found[0], table[2]) and np.array_equal(found[2], table[0])
    assert np.allclose(found[1], table[[2, 0]].mean(0)) and np.allclose(found[3], table[[2, 0]].mean(0))


def test_a_head_is_fitted_along_its_words():
    kernel, found = change(("embed", "vocab"), (3, 4), (3, 6))
    assert np.array_equal(found[:, :4], kernel) and np.allclose(found[:, 4:], kernel.mean(1, keepdims=True))


def test_positions_are_cut_or_drawn_with_the_spread_of_the_table():
    table, cut = change(("position", "embed"), (8, 3), (5, 3))
    assert np.array_equal(cut, table[:5])
    table, grown = change(("position", "embed"), (64, 32), (256, 32))
    assert np.array_equal(grown[:64], table) and abs(grown[64:].std() / table.std() - 1) < 0.05
    assert np.array_equal(grown, change(("position", "embed"), (64, 32), (256, 32), array=table)[1])


@pytest.mark.parametrize("marks", [0, 1])
def test_a_grid_is_made_finer_and_its_marks_stay(marks):
    """A plane over rows and columns stays that plane between the first and the last place."""
    before, after = 8, 16
    plane = lambda side: np.add.outer(2 * (np.arange(side) + 0.5) / side, (np.arange(side) + 0.5) / side)
    table = np.concatenate([np.full(marks, 7.0), plane(before).reshape(-1)])[:, None]
    _, found = change(("place", "embed"), table.shape, (marks + after**2, 1), array=table)
    assert np.array_equal(found[:marks], table[:marks])
    inside = slice(3, -3)  # beyond the outermost places the table is continued by its edge
    grid = found[marks:].reshape(after, after)
    assert np.allclose(grid[inside, inside], plane(after)[inside, inside], atol=1e-6)
    assert np.allclose(grid, grid[::-1, ::-1].max() + grid.min() - grid[::-1, ::-1], atol=1e-6)


def test_what_cannot_be_fitted():
    assert grid_of(197) == (1, 14) and grid_of(196) == (0, 14) and grid_of(7) is None
    for names, old, new in (
        (("embed", "mlp"), (4, 8), (4, 16)),
        (("vocab", "embed"), (5, 4), (5, 8)),
        (("place", "embed"), (197, 8), (196, 8)),
        (("place", "embed"), (7, 8), (16, 8)),
    ):
        assert resizing("a/table", names, old, new, None) is None
