"""Pictures as rows of patches, and the constant table of where a patch lies."""

from __future__ import annotations

import jax
import numpy as np


def patchify(images: jax.Array, patch: int) -> jax.Array:
    """[B, n, P * P * C] of images [B, S, S, C]: patches row by row; in a patch row, column, channel. ValueError where P does
    not divide the sides."""
    rows, height, width, channels = images.shape
    if height % patch or width % patch:
        raise ValueError(f"patches of {patch} do not fill pictures of {height} x {width}")
    x = images.reshape(rows, height // patch, patch, width // patch, patch, channels)
    return x.swapaxes(2, 3).reshape(rows, -1, patch * patch * channels)


def unpatchify(patches: jax.Array, patch: int, channels: int) -> jax.Array:
    """The square images [B, S, S, C] of patches [B, n, P * P * C]: the inverse of `patchify`."""
    rows, count, _ = patches.shape
    grid = round(count**0.5)
    if grid * grid != count:
        raise ValueError(f"{count} patches are no square picture")
    x = patches.reshape(rows, grid, grid, patch, patch, channels)
    return x.swapaxes(2, 3).reshape(rows, grid * patch, grid * patch, channels)


def sincos_table(grid: int, width: int, class_token: bool = False) -> np.ndarray:
    """float64[n (+ 1), D]: sines and cosines of a patch's column, then of its row (He et al. 2022; the column comes first in
    the code that released weights were trained with). The class token's row, the first, is zero.

    Each coordinate has D / 2 numbers: the sine and the cosine of it times 10,000^(-i / (D / 4)), i < D / 4. ValueError where 4
    does not divide D.
    """
    if width % 4:
        raise ValueError(f"a table of two coordinates needs a width that is a multiple of 4, not {width}")
    quarter = width // 4
    angles = np.arange(grid)[:, None] * 10_000.0 ** (-np.arange(quarter) / quarter)
    block = np.concatenate([np.sin(angles), np.cos(angles)], 1)
    column, row = np.tile(block, (grid, 1)), np.repeat(block, grid, 0)
    return np.concatenate([np.zeros((int(class_token), width)), np.concatenate([column, row], 1)])


def relative_index(grid: int, class_token: bool = True) -> np.ndarray:
    """int32[T, T]: the row of the table of relative biases for query and key (Bao et al. 2021, in the order of its code).

    Of two patches (dy + G - 1) (2G - 1) + dx + G - 1 with d = query - key; the last three rows, where there is a class token,
    are of the class token and a patch, a patch and the class token, the class token and itself.
    """
    row, column = np.divmod(np.arange(grid * grid), grid)
    away = lambda place: place[:, None] - place[None, :] + grid - 1
    index = away(row) * (2 * grid - 1) + away(column)
    if class_token:
        index, rows = np.pad(index, ((1, 0), (1, 0))), (2 * grid - 1) ** 2
        index[0, 1:], index[1:, 0], index[0, 0] = rows, rows + 1, rows + 2
    return index.astype(np.int32)
