"""Pictures side by side with their names, for a look at data."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pretrainx.evals import pictures

ACROSS, CELL, WORDS, GAP = 8, 64, 13, 6  # pictures in a line; pixels of a picture at least, of its name, between them


def contact_sheet(rows: Sequence[np.ndarray], names: Sequence[str], across: int = ACROSS) -> Image.Image:
    """One cell for each picture: it in every array of `rows`, from top to bottom, and its name below.

    rows: uint8[N, S, S, C] or float in [0, 1], at least one; each array may have a size of its own; small pictures are
    enlarged by whole numbers.
    """
    rows = [pictures.resized(each, each.shape[1]) for each in rows]
    times = [max(CELL // each.shape[1], 1) for each in rows]
    width = max(scale * each.shape[1] for scale, each in zip(times, rows, strict=True))
    height = sum(scale * each.shape[1] for scale, each in zip(times, rows, strict=True)) + WORDS
    across = min(across, len(names))
    sheet = Image.new("RGB", (across * (width + GAP) - GAP, -(-len(names) // across) * (height + GAP) - GAP), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(10)
    for index, name in enumerate(names):
        left, top = index % across * (width + GAP), index // across * (height + GAP)
        for scale, each in zip(times, rows, strict=True):
            side = scale * each.shape[1]
            tile = Image.fromarray(np.broadcast_to(each[index], (*each.shape[1:3], 3)))
            sheet.paste(tile.resize((side, side), Image.Resampling.NEAREST), (left, top))
            top += side
        pen.text((left, top), pictures.fitting(name, width, font), fill=pictures.NEUTRAL, font=font)
    return sheet


def answers(texts: Sequence[str], found: np.ndarray, right: np.ndarray) -> Image.Image:
    """A line for each text: it, and below it the pictures found[M, K, S, S, C] for it, the best first; a green line stands
    under those that are right, bool[M, K]."""
    side = found.shape[2] * max(CELL // found.shape[2], 1)
    across, down = side + GAP, side + WORDS + 2 * GAP
    sheet = Image.new("RGB", (found.shape[1] * across - GAP, len(texts) * down - GAP), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(10)
    for row, text in enumerate(texts):
        top = row * down
        pen.text((0, top), pictures.fitting(text, sheet.width, font), fill=pictures.NEUTRAL, font=font)
        for column, picture in enumerate(pictures.resized(found[row], found.shape[2])):
            left = column * across
            tile = Image.fromarray(np.broadcast_to(picture, (*picture.shape[:2], 3)))
            sheet.paste(tile.resize((side, side), Image.Resampling.NEAREST), (left, top + WORDS))
            if right[row, column]:
                below = top + WORDS + side
                pen.rectangle((left, below, left + side - 1, below + 2), fill=pictures.RIGHT)
    return sheet
