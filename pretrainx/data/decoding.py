"""From an encoded or plain picture to uint8[S, S, C]: oriented, in the channels that are wanted, cropped and resized."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image, ImageOps

WHITE = (255, 255, 255, 255)


class BadPictureError(Exception):
    """One picture that cannot be used; its message says why."""


@contextmanager
def limited(pixels: int) -> Iterator[None]:
    """Pillow refuses pictures of more pixels, those inside other files included."""
    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = pixels
    try:
        with warnings.catch_warnings():
            # Pillow warns above its limit and raises above twice of it.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def decode(content: bytes | np.ndarray, size: int, channels: int, pixels: int) -> np.ndarray:
    """`measured` without the size of the whole picture."""
    return measured(content, size, channels, pixels)[0]


def measured(content: bytes | np.ndarray, size: int, channels: int, pixels: int) -> tuple[np.ndarray, tuple[int, int]]:
    """(uint8[S, S, C] of a picture, (height, width) that it had before it was cropped or resized).

    The picture is of encoded bytes (of several frames the first), or of uint8[H, W] or [H, W, 1, 3 or 4]. It is turned as
    its EXIF record says; what is transparent shows white; grey is ITU-R 601 luma. With a `size` the centre square is
    resampled to it by Pillow's bicubic filter, which widens with the scale and so does not alias; what has that size
    already stays as it is. 16-bit grey keeps its upper eight bits.

    Args:
      size: S, or 0: as the picture is, height and width may then differ.
      channels: 1 or 3, or 0: grey stays grey, all else becomes red, green, blue.
      pixels: more than so many are refused before they are decoded.

    Raises BadPictureError for what Pillow cannot read to its end, for more pixels, and for modes without a known range.
    """
    if isinstance(content, np.ndarray):
        height, width, *depth = content.shape
        fits = depth == [channels] if channels else depth in ([1], [3])
        if fits and (size or height, size or width) == (height, width):
            return content, (height, width)
    try:
        picture = _opened(content)
        if picture.width * picture.height > pixels:
            raise BadPictureError(f"{picture.width} x {picture.height} pixels, above the limit of {pixels}")
        picture = _channels(ImageOps.exif_transpose(picture), channels)
        whole = picture.height, picture.width
        if size and picture.size != (size, size):
            side = min(picture.size)
            left, top = (picture.width - side) / 2, (picture.height - side) / 2
            # Cut and resized at once: resized first, a picture of one by a million pixels would be an enormous one.
            picture = picture.resize((size, size), Image.Resampling.BICUBIC, (left, top, left + side, top + side))
        array = np.asarray(picture)
    except (BadPictureError, MemoryError):
        raise
    except Exception as error:  # decoders raise whatever the bytes lead them to
        raise BadPictureError(f"{type(error).__name__}: {error}"[:200]) from error
    return array[..., None] if array.ndim == 2 else array, whole


def _opened(content: bytes | np.ndarray) -> Image.Image:
    if isinstance(content, np.ndarray):
        return Image.fromarray(content[..., 0] if content.ndim == 3 and content.shape[-1] == 1 else content)
    if not content:
        raise BadPictureError("it is empty")
    return Image.open(io.BytesIO(content))


def _channels(picture: Image.Image, channels: int) -> Image.Image:
    """In mode "L" or "RGB"."""
    if picture.mode.startswith("I;16"):
        picture = Image.fromarray((np.asarray(picture).astype(np.uint16) >> 8).astype(np.uint8))
    elif picture.mode in ("I", "F"):
        raise BadPictureError(f"pixels of mode {picture.mode!r}: what is white is not known")
    grey = picture.mode in ("1", "L", "LA", "La")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, WHITE), picture)
    return picture.convert("L" if (channels or (1 if grey else 3)) == 1 else "RGB")
