"""Pictures to look at, small in bytes: reconstructions, masks, views, nearest neighbours. Arrays in, a Pillow image out.

Arrays of pictures are uint8[N, S, S, C] or float[N, S, S, C] in [0, 1], C 1 or 3. One pixel stays one pixel, so that a reader
enlarges them as much as is wanted; only where words stand below pictures are these enlarged here.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

GAP = 2  # pixels between pictures
GREY = 128  # what is hidden
CELL = 72  # pixels of a picture that has words below it, at least
WORDS = 14  # their height
RIGHT, WRONG, NEUTRAL = (58, 125, 68), (163, 59, 59), (43, 47, 54)


def grid(rows: Sequence[np.ndarray]) -> Image.Image:
    """One row of pictures for each array; the arrays have as many, and each its own size."""
    rows = [_bytes(pictures) for pictures in rows]
    side = max(pictures.shape[1] for pictures in rows)
    step = side + GAP
    sheet = np.full((len(rows) * step - GAP, len(rows[0]) * step - GAP, 3), 255, np.uint8)
    for top, pictures in enumerate(rows):
        for left, picture in enumerate(pictures):
            height, width = picture.shape[:2]
            sheet[top * step : top * step + height, left * step : left * step + width] = picture  # grey is broadcast
    grey = all(pictures.shape[-1] == 1 for pictures in rows)
    return Image.fromarray(sheet[..., 0] if grey else sheet)


def covered(pictures: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """uint8[N, S, S, C] with the hidden patches grey; hidden: bool[N, G * G], row by row."""
    pictures = _bytes(pictures)
    side = round(hidden.shape[1] ** 0.5)
    patch = pictures.shape[1] // side
    where = hidden.reshape(-1, side, side).repeat(patch, 1).repeat(patch, 2)
    return np.where(where[..., None], np.uint8(GREY), pictures)


def masks(pictures: np.ndarray, hidden: np.ndarray) -> Image.Image:
    """Rows: the pictures, and what is seen of them."""
    return grid([pictures, covered(pictures, hidden)])


def reconstruction(pictures: np.ndarray, hidden: np.ndarray, restored: np.ndarray) -> Image.Image:
    """Rows: the pictures, what is seen of them, what was made of that (visible patches as they are, where they are told so)."""
    pictures = resized(pictures, restored.shape[1])
    return grid([pictures, covered(pictures, hidden), restored])


def views(pictures: np.ndarray, *seen: np.ndarray) -> Image.Image:
    """Rows: the pictures, and each view as the model sees it."""
    return grid([pictures, *seen])


def neighbours(
    queries: np.ndarray,
    found: np.ndarray,
    labels: np.ndarray | None = None,
    found_labels: np.ndarray | None = None,
    classes: Sequence[str] = (),
) -> Image.Image:
    """A line for each query uint8[M, S, S, C]: it, and its neighbours found[M, K, S, S, C], nearest first, classes below.

    labels: int[M] and found_labels: int[M, K], where there are any; `classes` their names. A neighbour of the query's class
    has a green name and a green line below it, others red ones.
    """
    queries, found = _bytes(queries), np.stack([_bytes(each) for each in found])
    times = -(-CELL // queries.shape[1])
    side, told = times * queries.shape[1], labels is not None
    across, down = side + 3 * GAP, side + 3 * GAP + (WORDS if told else 0)
    sheet = Image.new("RGB", ((found.shape[1] + 1) * across + 8 - 3 * GAP, len(queries) * down - GAP), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default()
    for row, query in enumerate(queries):
        for column, picture in enumerate([query, *found[row]]):
            left, top = column * across + (8 if column else 0), row * down
            tile = Image.fromarray(np.broadcast_to(picture, (*picture.shape[:2], 3)))
            sheet.paste(tile.resize((side, side), Image.Resampling.NEAREST), (left, top))
            if told:
                label = labels[row] if not column else found_labels[row, column - 1]
                colour = NEUTRAL if not column else RIGHT if label == labels[row] else WRONG
                pen.rectangle((left, top + side, left + side - 1, top + side + 1), fill=colour)
                name = classes[label] if label < len(classes) else str(label)
                pen.text((left, top + side + 3), fitting(name, side, font), fill=colour, font=font)
    return sheet


def save(image: Image.Image, path: str | Path, caption: str = "") -> None:
    """Writes a PNG whole or not at all; the caption goes into it as text, for whoever shows it. Raises OSError."""
    path, text = Path(path), PngInfo()
    text.add_itxt("Caption", caption)
    unfinished = path.with_name(path.name + ".unfinished")
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(unfinished, format="PNG", optimize=True, pnginfo=text if caption else None)
    os.replace(unfinished, path)


def resized(pictures: np.ndarray, size: int) -> np.ndarray:
    """uint8[N, size, size, C]: as they are where they have that size, else resampled."""
    pictures = _bytes(pictures)
    if pictures.shape[1] == size:
        return pictures
    squeeze = lambda picture: picture[..., 0] if picture.shape[-1] == 1 else picture
    made = [Image.fromarray(squeeze(picture)).resize((size, size), Image.Resampling.BICUBIC) for picture in pictures]
    return np.stack([np.asarray(each).reshape(size, size, -1) for each in made])


def _bytes(pictures: np.ndarray) -> np.ndarray:
    pictures = np.asarray(pictures)
    if pictures.dtype == np.uint8:
        return pictures
    return np.round(255 * np.clip(np.nan_to_num(pictures.astype(np.float32)), 0, 1)).astype(np.uint8)


def fitting(name: str, width: int, font) -> str:
    """As many letters of a name as find room in so many pixels, at least one."""
    while len(name) > 1 and font.getlength(name) > width:
        name = name[:-1]
    return name
