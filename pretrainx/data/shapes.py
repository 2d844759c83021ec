"""Pictures generated in code: one shape of a class at a random place, angle, size, colour and texture, on a noisy ground.

The class is the shape and nothing else: colours, textures and places are drawn alike for all. It takes features that hold
across them to tell the classes apart; single pixels say next to nothing.
"""

from __future__ import annotations

import numpy as np

CLASSES = ("disc", "square", "triangle", "star", "ring", "cross", "crescent", "bar")
TEXTURES = ("plain", "stripes", "checks", "dots")
FINE = 2  # samples of a pixel in each direction


def picture(seed: int, index: int, size: int = 32) -> tuple[np.ndarray, int]:
    """(uint8[size, size, 3], class) of a picture: a function of these three numbers, whatever else is generated."""
    draw = np.random.Generator(np.random.Philox(key=[seed, index])).random
    label = int(draw() * len(CLASSES))
    along = (np.arange(size * FINE) + 0.5) / (size * FINE) * 2 - 1
    y, x = np.meshgrid(along, along, indexing="ij")  # from -1 to 1
    first, second = draw(3), draw(3)
    colour, other = _colours(draw, (first + second) / 2)
    radius = 0.4 + 0.3 * draw()
    middle = (1 - radius) * (2 * draw(2) - 1) * 0.9
    u, v = _turned(2 * np.pi * draw(), (x - middle[0]) / radius, (y - middle[1]) / radius)
    shares = [
        _coarse(values)[..., None] for values in (_wave(draw, x, y), _inside(CLASSES[label], u, v), _marks(draw, x, y))
    ]
    ground, inside, marks = shares
    pixels = (first + 0.6 * (second - first) * ground) * (1 - inside) + (colour + (other - colour) * marks) * inside
    noise = (draw((2, size, size, 3)).sum(0) - 1) * (0.02 + 0.1 * draw())
    return (np.clip(pixels + noise, 0, 1) * 255 + 0.5).astype(np.uint8), label


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


def _marks(draw, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """bool of the grid: where a texture has its second colour."""
    texture, pace = TEXTURES[int(draw() * len(TEXTURES))], 8 + 8 * draw()
    s, t = _turned(2 * np.pi * draw(), pace * x, pace * y)
    match texture:
        case "stripes":
            return np.sin(s) > 0
        case "checks":
            return np.sin(s) * np.sin(t) > 0
        case "dots":
            return np.sin(s) + np.sin(t) > 1
    return np.zeros_like(x, bool)


def _colours(draw, ground: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two colours: one unlike the ground's, and a darker or lighter one beside it."""
    colour = draw(3)
    for _ in range(8):
        if abs(colour - ground).sum() > 0.9:
            break
        colour = draw(3)
    return colour, colour + (0.25 + 0.35 * draw()) * (1 if colour.mean() < 0.5 else -1)
