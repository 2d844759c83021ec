"""Random pictures on the device: what a paradigm's paper does to a picture, by name.

Order: crop, flip, colour jitter, grey, blur, solarize (each with its own probability); `grey_first` and `jitter_first` move
one of them to the front, as the code of MoCo v1 and of BEiT does.

| name | crop area | resampling | flip | jitter: chance (brightness, contrast, saturation, hue) | grey | blur | solarize |
|---|---|---|---|---|---|---|---|
| simclr | 0.08 .. 1 | bicubic | .5 | .8 (.8, .8, .8, .2) | .2 | .5 | - |
| simclr_small (CIFAR: s = 0.5) | 0.08 .. 1 | bicubic | .5 | .8 (.4, .4, .4, .1) | .2 | - | - |
| moco_v1 | 0.2 .. 1 | bilinear | .5 | 1 (.4, .4, .4, .4) | .2, first | - | - |
| moco_v2, simsiam | 0.2 .. 1 | bilinear | .5 | .8 (.4, .4, .4, .1) | .2 | .5 | - |
| moco_v3_first | 0.08 .. 1 (ResNet: 0.2) | bilinear | .5 | .8 (.4, .4, .2, .1) | .2 | 1 | - |
| moco_v3_second | 0.08 .. 1 (ResNet: 0.2) | bilinear | .5 | .8 (.4, .4, .2, .1) | .2 | .1 | .2 |
| byol_first | 0.08 .. 1 | bicubic | .5 | .8 (.4, .4, .2, .1) | .2 | 1 | - |
| byol_second | 0.08 .. 1 | bicubic | .5 | .8 (.4, .4, .2, .1) | .2 | .1 | .2 |
| dino_global_first | 0.4 .. 1 | bicubic | .5 | .8 (.4, .4, .2, .1) | .2 | 1 | - |
| dino_global_second | 0.4 .. 1 | bicubic | .5 | .8 (.4, .4, .2, .1) | .2 | .1 | .2 |
| dino_local (3/7 of the side) | 0.05 .. 0.4 | bicubic | .5 | .8 (.4, .4, .2, .1) | .2 | .5 | - |
| mae | 0.2 .. 1 | bicubic | .5 | - | - | - | - |
| beit | 0.08 .. 1 | bicubic | .5 | 1 (.4, .4, .4, 0), first | - | - | - |
| clip (as open_clip has it) | 0.9 .. 1 | bicubic | - | - | - | - | - |
| probe | 0.08 .. 1 | bicubic | .5 | - | - | - | - |
| grey (small grey pictures) | 0.2 .. 1 | bilinear | .5 | .8 (.4, .4, 0, 0) | - | - | - |
| none (resized to the size) | whole | bicubic | - | - | - | - | - |

Papers: Chen et al. 2020 (SimCLR), He et al. 2020 and Chen et al. 2020, 2021 (MoCo), Grill et al. 2020 (BYOL), Chen and He 2021
(SimSiam), Caron et al. 2021 (DINO), He et al. 2022 (MAE), Bao et al. 2022 (BEiT). Blur has sigma uniform in 0.1 .. 2 pixels.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp

from pretrainx.core.errors import ConfigError
from pretrainx.core.images import Images
from pretrainx.objectives import blur, colour, crops, pixels

CHANCES = ("flip", "jitter", "grayscale", "blur", "sigma", "solarize")  # one uniform number each


@dataclass(frozen=True)
class Augmentation:
    """A random map of pictures [H, W, C] in [0, 1] to pictures [size, size, C] in [0, 1], a function of the key.

    What the key draws does not depend on `size`: with `dataclasses.replace(augmentation, size=...)` the same key gives the
    same crop at another resolution (BEiT's tokenizer).

    Attributes:
      size: side of the result; 0 is the picture's own.
      crop: least and largest share of the area; (1, 1) takes the whole picture.
      aspect: least and largest width / height of a crop.
      method: "bilinear" or "bicubic".
      flip, jitter_probability, grayscale, blur, solarize: chance of each.
      jitter: strengths for brightness, contrast, saturation, hue.
      blur_sigma: its range, in pixels.
      blur_side: of its kernel; 0 is a tenth of the size, made odd: below 20 pixels nothing is blurred.
      grey_first, jitter_first: that operation comes before all others (jitter even before the crop).
    """

    size: int = 0
    crop: tuple[float, float] = (0.08, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    method: str = "bicubic"
    flip: float = 0.5
    jitter_probability: float = 0.0
    jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    grayscale: float = 0.0
    blur: float = 0.0
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    blur_side: int = 0
    solarize: float = 0.0
    grey_first: bool = False
    jitter_first: bool = False

    def __call__(self, key: jax.Array, image: jax.Array) -> jax.Array:
        boxes, colours, others = jax.random.split(key, 3)
        chances = dict(zip(CHANCES, jax.random.uniform(others, (len(CHANCES),), jnp.float32), strict=True))
        image = jnp.moveaxis(image, -1, 0)  # planes [C, H, W]: on a CPU several times faster
        if self.jitter_first:
            image = self._jittered(colours, chances, image)
        image = self._cropped(boxes, chances, image)
        if self.grey_first:
            image = self._greyed(chances, image)
        if not self.jitter_first:
            image = self._jittered(colours, chances, image)
        if not self.grey_first:
            image = self._greyed(chances, image)
        return jnp.moveaxis(self._solarized(chances, self._blurred(chances, image)), 0, -1)

    def _cropped(self, key: jax.Array, chances: dict[str, jax.Array], image: jax.Array) -> jax.Array:
        _, height, width = image.shape
        size = self.size or height
        flipped = chances["flip"] < self.flip
        if self.crop == (1, 1) and (height, width) == (size, size):
            return jnp.where(flipped, image[..., ::-1], image) if self.flip else image
        box = (0, 0, height, width)
        if self.crop != (1, 1):
            box = crops.random_box(key, height, width, self.crop, self.aspect)
        found = crops.resized_crop(jnp.moveaxis(image, 0, -1), box, size, self.method, flipped)
        return pixels.computed(jnp.clip(jnp.moveaxis(found, -1, 0), 0, 1), axis=0)

    def _jittered(self, key: jax.Array, chances: dict[str, jax.Array], image: jax.Array) -> jax.Array:
        if not self.jitter_probability or not any(self.jitter):
            return image
        changed = colour.jitter(key, image, self.jitter, axis=0)
        return self._perhaps(chances["jitter"] < self.jitter_probability, changed, image)

    def _greyed(self, chances: dict[str, jax.Array], image: jax.Array) -> jax.Array:
        if not self.grayscale or image.shape[0] == 1:
            return image
        return self._perhaps(chances["grayscale"] < self.grayscale, colour.grayscale(image, axis=0), image)

    def _blurred(self, chances: dict[str, jax.Array], image: jax.Array) -> jax.Array:
        side = self.blur_side or blur.side_of(image.shape[1])
        if not self.blur or side == 1:
            return image
        low, high = self.blur_sigma
        changed = blur.gaussian_blur(image, low + (high - low) * chances["sigma"], side, axis=0)
        return self._perhaps(chances["blur"] < self.blur, changed, image)

    def _solarized(self, chances: dict[str, jax.Array], image: jax.Array) -> jax.Array:
        if not self.solarize:
            return image
        return self._perhaps(chances["solarize"] < self.solarize, colour.solarize(image), image)

    def _perhaps(self, happens: jax.Array, changed: jax.Array, image: jax.Array) -> jax.Array:
        return pixels.computed(jnp.where(happens, changed, image), axis=0)


LOCAL_SHARE = 3 / 7  # DINO's local crops: 96 of 224 pixels

_SIMCLR = Augmentation(jitter_probability=0.8, jitter=(0.8, 0.8, 0.8, 0.2), grayscale=0.2, blur=0.5)
_MOCO_V2 = Augmentation(
    crop=(0.2, 1.0), method="bilinear", jitter_probability=0.8, jitter=(0.4, 0.4, 0.4, 0.1), grayscale=0.2, blur=0.5
)
_FIRST = Augmentation(jitter_probability=0.8, jitter=(0.4, 0.4, 0.2, 0.1), grayscale=0.2, blur=1.0)
_SECOND = dataclasses.replace(_FIRST, blur=0.1, solarize=0.2)

SETTINGS = {
    "simclr": _SIMCLR,
    "simclr_small": dataclasses.replace(_SIMCLR, jitter=(0.4, 0.4, 0.4, 0.1), blur=0.0),
    "moco_v1": dataclasses.replace(
        _MOCO_V2, jitter_probability=1.0, jitter=(0.4, 0.4, 0.4, 0.4), blur=0.0, grey_first=True
    ),
    "moco_v2": _MOCO_V2,
    "moco_v3_first": dataclasses.replace(_FIRST, method="bilinear"),
    "moco_v3_second": dataclasses.replace(_SECOND, method="bilinear"),
    "byol_first": _FIRST,
    "byol_second": _SECOND,
    "simsiam": _MOCO_V2,
    "dino_global_first": dataclasses.replace(_FIRST, crop=(0.4, 1.0)),
    "dino_global_second": dataclasses.replace(_SECOND, crop=(0.4, 1.0)),
    "dino_local": dataclasses.replace(_FIRST, crop=(0.05, 0.4), blur=0.5),
    "mae": Augmentation(crop=(0.2, 1.0)),
    "beit": Augmentation(jitter_probability=1.0, jitter=(0.4, 0.4, 0.4, 0.0), jitter_first=True),
    "probe": Augmentation(),
    "clip": Augmentation(crop=(0.9, 1.0), flip=0.0),
    "grey": Augmentation(crop=(0.2, 1.0), method="bilinear", jitter_probability=0.8, jitter=(0.4, 0.4, 0.0, 0.0)),
    "none": Augmentation(crop=(1.0, 1.0), flip=0.0),
}


@dataclass(frozen=True)
class AugmentConfig:
    """A section such as `config.objective.augment`: a setting by name, and what is to differ from it.

    Attributes:
      name: of the table in this module.
      size: side of the result; 0 is the stored pictures' own ("dino_local": 3/7 of it, rounded to a multiple of 4).
      The others replace the setting's of the same name; -1, () and "" leave it as it is.
    """

    name: str = field(default="simclr", metadata={"choices": tuple(SETTINGS)})
    size: int = field(default=0, metadata={"min": 0})
    crop: tuple[float, ...] = field(default=(), metadata={"above": 0, "max": 1})
    aspect: tuple[float, ...] = field(default=(), metadata={"above": 0})
    method: str = field(default="", metadata={"choices": ("", *crops.FILTERS)})
    flip: float = field(default=-1.0, metadata={"max": 1})
    jitter_probability: float = field(default=-1.0, metadata={"max": 1})
    jitter: tuple[float, ...] = field(default=(), metadata={"min": 0})
    grayscale: float = field(default=-1.0, metadata={"max": 1})
    blur: float = field(default=-1.0, metadata={"max": 1})
    blur_sigma: tuple[float, ...] = field(default=(), metadata={"above": 0})
    blur_side: int = field(default=-1, metadata={"min": -1})
    solarize: float = field(default=-1.0, metadata={"max": 1})

    def __post_init__(self):
        if self.name not in SETTINGS:
            raise _problem("name", f"unknown augmentation {self.name!r}", f"known: {', '.join(SETTINGS)}")
        for name, above, most in (("crop", 0, 1), ("aspect", 0, None), ("blur_sigma", 0, None)):
            self._check_range(name, above, most)
        for name in ("flip", "jitter_probability", "grayscale", "blur", "solarize"):
            value = getattr(self, name)
            if value != -1 and not 0 <= value <= 1:
                raise _problem(name, f"{value:g} is no probability", "0 .. 1, or -1 to leave it as it is")
        if self.jitter and (len(self.jitter) != 4 or min(self.jitter) < 0 or self.jitter[3] > 0.5):
            raise _problem(
                "jitter", f"{self.jitter} are no strengths", "brightness, contrast, saturation >= 0 and hue in 0 .. 0.5"
            )
        if self.blur_side > 0 and self.blur_side % 2 == 0:
            raise _problem(
                "blur_side", f"{self.blur_side} is even: the kernel has no middle", "an odd number of pixels"
            )

    def _check_range(self, name: str, above: float, most: float | None) -> None:
        value = getattr(self, name)
        if not value:
            return
        if len(value) != 2 or not above < value[0] <= value[1] or most is not None and value[1] > most:
            limits = f"two numbers above {above}" + (f", at most {most}" if most is not None else "")
            raise _problem(name, f"{value} is no range", f"{limits}, the smaller one first")

    def build(self, images: Images, section: str = "augment") -> Augmentation:
        """The setting with what differs, its size resolved for pictures of this set; `section` of config.objective is what
        errors name."""
        where = f"config.objective.{section}"
        setting = SETTINGS[self.name]
        own = {each.name for each in dataclasses.fields(self)} - {"name", "size"}
        given = {name: getattr(self, name) for name in own if getattr(self, name) not in (-1, (), "")}
        size = self.size or images.size
        if self.name == "dino_local" and not self.size:
            size = max(4, round(images.size * LOCAL_SHARE / 4) * 4)
        built = dataclasses.replace(setting, size=size, **given)
        side = built.blur_side or blur.side_of(size)
        if self.jitter and not built.jitter_probability:
            raise _problem(
                "jitter", f"the chance of jitter is 0 in {self.name!r}", "give jitter_probability too", where
            )
        if built.blur and side // 2 >= size:
            raise _problem(
                "blur_side", f"a kernel of {side} pixels for pictures of {size}", f"at most {2 * size - 1}", where
            )
        return built


def _problem(name: str, why: str, do: str, where: str = "AugmentConfig") -> ConfigError:
    """Of a config that is read the reader knows the section, and puts it in the place of `where`."""
    return ConfigError(f"no augmentation has such a {name}", where=f"{where}.{name}", why=why, do=do)
