"""Pictures generated in code: one shape of a class at a random place, angle, size, colour and texture, on a noisy ground.

The class is the shape and nothing else: colours, textures and places are drawn alike for all. It takes features that hold
across them to tell the classes apart; single pixels say next to nothing. Captions tell the rest of what was drawn.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

CLASSES = ("disc", "square", "triangle", "star", "ring", "cross", "crescent", "bar")
TEXTURES = ("plain", "stripes", "checks", "dots")
FINE = 2  # samples of a pixel in each direction


# What captions call colours: the nearest of these, as red, green and blue from 0 to 1.
COLOURS = {
    "black": (0.0, 0.0, 0.0),
    "white": (1.0, 1.0, 1.0),
    "grey": (0.5, 0.5, 0.5),
    "red": (0.85, 0.1, 0.1),
    "orange": (0.95, 0.55, 0.1),
    "yellow": (0.95, 0.9, 0.15),
    "green": (0.15, 0.65, 0.2),
    "turquoise": (0.2, 0.8, 0.8),
    "blue": (0.15, 0.25, 0.85),
    "purple": (0.5, 0.15, 0.65),
    "pink": (0.95, 0.5, 0.75),
    "brown": (0.5, 0.3, 0.1),
}
SMALL, LARGE = 0.5, 0.6  # radii below and above are called so; they are from 0.4 to 0.7
_WORDS = {"plain": "", "stripes": "striped", "checks": "checked", "dots": "dotted"}


class Facts(NamedTuple):
    """What a picture shows, in words.

    Attributes:
      shape: of CLASSES; texture: of TEXTURES; size: "small", "medium" or "large".
      colour, ground: of COLOURS, the shape's first colour, and the mean of the ground's.
    """

    shape: str
    colour: str
    texture: str
    size: str
    ground: str

    def captions(self) -> tuple[str, ...]:
        """The full one first, such as "a large red striped star on a green ground", then shorter ones; no two are equal."""
        texture = _WORDS[self.texture]
        said = (
            (self.size, self.colour, texture, self.shape, f"on {_with_article(self.ground)} ground"),
            (self.colour, self.shape),
            (self.shape,),
            (self.size, texture, self.shape),
        )
        return tuple(_with_article(" ".join(filter(None, words))) for words in said)


def picture(seed: int, index: int, size: int = 32) -> tuple[np.ndarray, int]:
    """(uint8[size, size, 3], class) of a picture: a function of these three numbers, whatever else is generated."""
    pixels, facts = told(seed, index, size)
    return pixels, CLASSES.index(facts.shape)


def told(seed: int, index: int, size: int = 32) -> tuple[np.ndarray, Facts]:
    """The same picture, and what it shows: that does not depend on its size."""
    draw = np.random.Generator(np.random.Philox(key=[seed, index])).random
    label = int(draw() * len(CLASSES))
    along = (np.arange(size * FINE) + 0.5) / (size * FINE) * 2 - 1
    y, x = np.meshgrid(along, along, indexing="ij")  # from -1 to 1
    first, second = draw(3), draw(3)
    colour, other = _colours(draw, (first + second) / 2)
    radius = 0.4 + 0.3 * draw()
    middle = (1 - radius) * (2 * draw(2) - 1) * 0.9
    u, v = _turned(2 * np.pi * draw(), (x - middle[0]) / radius, (y - middle[1]) / radius)
    wave, outline = _wave(draw, x, y), _inside(CLASSES[label], u, v)
    texture, drawn = _marks(draw, x, y)
    ground, inside, marks = (_coarse(values)[..., None] for values in (wave, outline, drawn))
    pixels = (first + 0.6 * (second - first) * ground) * (1 - inside) + (colour + (other - colour) * marks) * inside
    noise = (draw((2, size, size, 3)).sum(0) - 1) * (0.02 + 0.1 * draw())
    words = "small" if radius < SMALL else "large" if radius > LARGE else "medium"
    facts = Facts(CLASSES[label], _called(colour), texture, words, _called(first + 0.3 * (second - first)))
    return (np.clip(pixels + noise, 0, 1) * 255 + 0.5).astype(np.uint8), facts


def _called(colour: np.ndarray) -> str:
    """The name of the nearest of COLOURS."""
    return min(COLOURS, key=lambda name: np.square(colour - np.array(COLOURS[name])).sum())


def _with_article(words: str) -> str:
    return f"{'an' if words[0] in 'aeio' else 'a'} {words}"


def _coarse(values: np.ndarray) -> np.ndarray:
    """The mean over the samples of each pixel."""
    return sum(values[i::FINE, j::FINE].astype(float) for i in range(FINE) for j in range(FINE)) / FINE**2


def _turned(angle: float, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The coordinates along axes that are turned by an angle."""
    return x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)


def _inside(name: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """bool of the grid: where a shape of about radius 1 around the origin is."""
    distance, angle = np.hypot(u, v), np.arctan2(v, u)
    match name:
        case "disc":
            return distance < 0.85
        case "square":
            return np.maximum(abs(u), abs(v)) < 0.76
        case "triangle":
            return np.maximum(v, np.sqrt(3) / 2 * abs(u) - v / 2) < 0.52
        case "star":  # straight edges from the tips at radius 1 to the corners at 0.42
            fold = abs((angle * 5 / (2 * np.pi) + 0.5) % 1 - 0.5) * 2 * np.pi / 5
            a, b = distance * np.cos(fold), distance * np.sin(fold)
            corner = 0.42 * np.array([np.cos(np.pi / 5), np.sin(np.pi / 5)])
            return (1 - a) * corner[1] > b * (1 - corner[0])
        case "ring":
            return (distance < 0.92) & (distance > 0.5)
        case "cross":
            return (np.minimum(abs(u), abs(v)) < 0.27) & (np.maximum(abs(u), abs(v)) < 0.95)
        case "crescent":
            return (distance < 0.95) & (np.hypot(u - 0.5, v) > 0.75)
        case "bar":
            return (abs(u) < 1.0) & (abs(v) < 0.32)
    raise ValueError(f"no shape is called {name!r}")


def _wave(draw, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """float of the grid from 0 to 1, one or two waves across the picture."""
    along, _ = _turned(2 * np.pi * draw(), x, y)
    return 0.5 + 0.5 * np.sin((0.5 + 2 * draw()) * along + 2 * np.pi * draw())


def _marks(draw, x: np.ndarray, y: np.ndarray) -> tuple[str, np.ndarray]:
    """(a texture, bool of the grid: where it has its second colour)."""
    texture, pace = TEXTURES[int(draw() * len(TEXTURES))], 8 + 8 * draw()
    s, t = _turned(2 * np.pi * draw(), pace * x, pace * y)
    match texture:
        case "stripes":
            return texture, np.sin(s) > 0
        case "checks":
            return texture, np.sin(s) * np.sin(t) > 0
        case "dots":
            return texture, np.sin(s) + np.sin(t) > 1
    return texture, np.zeros_like(x, bool)


def _colours(draw, ground: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two colours: one unlike the ground's, and a darker or lighter one beside it."""
    colour = draw(3)
    for _ in range(8):
        if abs(colour - ground).sum() > 0.9:
            break
        colour = draw(3)
    return colour, colour + (0.25 + 0.35 * draw()) * (1 if colour.mean() < 0.5 else -1)
