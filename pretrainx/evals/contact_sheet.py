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
