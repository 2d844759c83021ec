"""Sheets of pictures: every pixel where it belongs, what is hidden is hidden, files whole and with their caption."""

import numpy as np
import pytest
from PIL import Image

from evals.small_encoder import digits
from pretrainx.evals import pictures

RNG = np.random.default_rng(0)
COLOURED = RNG.integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
STEP = 8 + pictures.GAP


def tile(sheet, row, column, side=8, step=STEP):
    array = np.asarray(sheet)
    return array[row * step : row * step + side, column * step : column * step + side]


def test_a_grid_shows_each_picture_once():
    """Floats in [0, 1] as bytes, white between them; grey pictures beside coloured ones."""
    grey = digits()[0][:3]
    sheet = pictures.grid([COLOURED, COLOURED / 255, grey])
    assert sheet.size == (3 * STEP - 2, 3 * STEP - 2) and sheet.mode == "RGB"
    for column in range(3):
        assert np.array_equal(tile(sheet, 0, column), COLOURED[column])
        assert np.array_equal(tile(sheet, 1, column), COLOURED[column])
        assert np.array_equal(tile(sheet, 2, column), np.broadcast_to(grey[column], (8, 8, 3)))
    assert (np.asarray(sheet)[:, 8:STEP] == 255).all() and (np.asarray(sheet)[8:STEP] == 255).all()
    assert pictures.grid([grey]).mode == "L"


def test_hidden_patches_are_grey_in_their_place():
    hidden = np.zeros((3, 4), bool)
    hidden[0, 1] = hidden[1, 2] = True  # above right; below left
    seen = pictures.covered(COLOURED, hidden)
    assert (seen[0, :4, 4:] == pictures.GREY).all() and (seen[1, 4:, :4] == pictures.GREY).all()
    assert (seen != COLOURED).any((1, 2, 3)).tolist() == [True, True, False]
    assert np.array_equal(seen[0, 4:], COLOURED[0, 4:]) and np.array_equal(seen[0, :4, :4], COLOURED[0, :4, :4])
    sheet = pictures.masks(COLOURED, hidden)
    assert np.array_equal(tile(sheet, 1, 1), seen[1])


def test_reconstruction_in_the_size_of_the_model():
    hidden, restored = np.ones((3, 4), bool), RNG.random((3, 4, 4, 3)).astype(np.float32) * 1.5 - 0.2
    sheet = pictures.reconstruction(COLOURED, hidden, restored)
    assert sheet.size == (3 * 6 - 2, 3 * 6 - 2)
    shown = tile(sheet, 2, 1, 4, 6)
    np.testing.assert_allclose(shown, 255 * np.clip(restored[1], 0, 1), atol=0.51)
    assert (tile(sheet, 1, 2, 4, 6) == pictures.GREY).all()
    small = pictures.resized(digits()[0][:2], 4)
    assert small.shape == (2, 4, 4, 1) and small.dtype == np.uint8
    assert pictures.views(COLOURED, COLOURED, COLOURED[::-1]).size[1] == 3 * STEP - 2


def test_neighbours_and_the_colours_of_their_names():
    """Enlarged by a whole number; a line below says whether the class is the query's."""
    images, labels = np.zeros((2, 8, 8, 1), np.uint8), np.array([0, 1])
    found = np.stack([COLOURED, COLOURED[::-1]])
    sheet = pictures.neighbours(
        images, found, labels, np.array([[0, 1, 0], [0, 0, 1]]), ("a very long name of a class", "b")
    )
    side, across = 72, 72 + 3 * pictures.GAP
    array = np.asarray(sheet)
    first = array[:side, across + 8 : across + 8 + side]
    assert np.array_equal(first[::9, ::9], COLOURED[0]) and np.array_equal(first[8::9, 8::9], COLOURED[0])
    lines = [tuple(array[side, left * across + (8 if left else 0)]) for left in range(4)]
    assert lines == [pictures.NEUTRAL, pictures.RIGHT, pictures.WRONG, pictures.RIGHT]
    plain = pictures.neighbours(images, found)
    assert plain.size[1] < sheet.size[1] and plain.size[0] == sheet.size[0]


def test_files(tmp_path):
    """A PNG with its caption, in a folder that is made; broken halfway, nothing stands under the name."""
    path = tmp_path / "samples" / "00000100-views.png"
    pictures.save(pictures.grid([digits()[0][:8]]), path, "ä caption, <step> 100")
    with Image.open(path) as image:
        assert image.info["Caption"] == "ä caption, <step> 100" and image.size == (8 * STEP - 2, 8)
    assert path.stat().st_size < 2000
    with pytest.raises(OSError):
        pictures.save(pictures.grid([COLOURED]), tmp_path / "samples" / "00000100-views.png" / "x.png")
    assert [each.name for each in path.parent.iterdir()] == [path.name]
