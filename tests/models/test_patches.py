"""Patches in the order of releases, the constant table of positions, the index of relative ones: by hand and by loops."""

import numpy as np
import pytest

from pretrainx.models.patches import patchify, relative_index, sincos_table, unpatchify


def test_order():
    """Patches row by row; in each, row, column, channel."""
    images = np.random.default_rng(0).standard_normal((2, 6, 6, 3))
    found = np.asarray(patchify(images, 2))
    assert found.shape == (2, 9, 12)
    for row in range(3):
        for column in range(3):
            block = images[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            np.testing.assert_array_equal(found[:, 3 * row + column], block.reshape(2, -1))
    np.testing.assert_array_equal(unpatchify(found, 2, 3), images)


def test_what_does_not_fill():
    with pytest.raises(ValueError, match="do not fill pictures of 6 x 6"):
        patchify(np.zeros((1, 6, 6, 1)), 4)
    with pytest.raises(ValueError, match="no square"):
        unpatchify(np.zeros((1, 6, 4)), 2, 1)


def test_table():
    """Column first, sines before cosines; the class token's row is zero."""
    table = sincos_table(3, 8, class_token=True)
    assert table.shape == (10, 8) and table.dtype == np.float64 and not table[0].any()
    for row in range(3):
        for column in range(3):
            wanted = []
            for place in (column, row):
                angles = [place * 10_000 ** (-i / 2) for i in range(2)]
                wanted += [*np.sin(angles), *np.cos(angles)]
            np.testing.assert_allclose(table[1 + 3 * row + column], wanted, rtol=1e-14)
    np.testing.assert_array_equal(sincos_table(3, 8), table[1:])
    with pytest.raises(ValueError, match="multiple of 4"):
        sincos_table(3, 6)


def test_relative_index():
    grid = 3
    index, last = relative_index(grid), (2 * grid - 1) ** 2
    for query in range(grid**2):
        for key in range(grid**2):
            (qy, qx), (ky, kx) = divmod(query, grid), divmod(key, grid)
            wanted = (qy - ky + grid - 1) * (2 * grid - 1) + qx - kx + grid - 1
            assert index[1 + query, 1 + key] == wanted
    assert (index[0, 1:] == last).all() and (index[1:, 0] == last + 1).all() and index[0, 0] == last + 2
    np.testing.assert_array_equal(relative_index(grid, class_token=False), index[1:, 1:])
    assert {*np.unique(index)} == {*range(last + 3)}, "every row of the table is somebody's"
