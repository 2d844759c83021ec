"""Random pictures: which operations, how often, in which order, keyed by the key alone; their section of a config."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from pretrainx.core import config
from pretrainx.core.errors import ConfigError
from pretrainx.core.images import Images
from pretrainx.models.layers import Precision
from pretrainx.models.resnet import ResNetConfig
from pretrainx.objectives import augmentation, colour, pixels
from pretrainx.objectives.augmentation import SETTINGS, Augmentation, AugmentConfig
from pretrainx.objectives.byol import ByolConfig

DRAWS = 1000
KEYS = jax.vmap(jax.random.key)(jnp.arange(DRAWS))
LIKELY = 1e-4  # an outcome that a fair draw gives less often than this is a fault; the seeds are fixed
PICTURE = np.random.default_rng(0).random((6, 6, 3), np.float32)
STILL = Augmentation(crop=(1.0, 1.0), flip=0.0)
IMAGES = Images(32)


def drawn(built, picture=PICTURE, keys=KEYS):
    return np.asarray(jax.jit(jax.vmap(lambda key: built(key, picture)))(keys))


def test_settings_are_as_described():
    """The table at the head of the module, number by number."""
    rows = re.findall(r"^\| (\w+(?:, \w+)*) ?(?:\(.*?\) )?\| (0|whole)(.*)\|$", augmentation.__doc__, re.MULTILINE)
    described = {}
    for names, *rest in rows:
        crop, method, flip, jitter, grey, blur, solarize = [cell.strip() for cell in "".join(rest).split("|")]
        number = lambda cell: float(cell.split(",")[0].replace("-", "0"))
        chance, strengths = re.fullmatch(r"([\d.]+) \((.*?)\)(?:, first)?|-", jitter).groups()
        wanted = Augmentation(
            crop=(1.0, 1.0) if crop == "whole" else tuple(map(float, re.sub(r" \(.*", "", crop).split(" .. "))),
            method=method,
            flip=number(flip),
            jitter_probability=float(chance or 0),
            jitter=tuple(map(float, strengths.split(","))) if strengths else (0.0,) * 4,
            grayscale=number(grey),
            blur=number(blur),
            solarize=number(solarize),
            grey_first="first" in grey,
            jitter_first="first" in jitter,
        )
        described |= dict.fromkeys(names.split(", "), wanted)
    assert described == SETTINGS


@pytest.mark.parametrize(
    "channels, names", [(3, ("simclr", "moco_v1", "byol_second", "none")), (1, ("grey", "moco_v3_second"))]
)
def test_settings_give_pictures(channels, names):
    """In [0, 1], of the size, all different; of one key always the same, also among others."""
    augmentations = {name: AugmentConfig(name, size=20).build(IMAGES) for name in names}
    picture = np.random.default_rng(0).random((24, 24, channels), np.float32)
    several = jax.jit(
        lambda keys: {
            name: jax.vmap(lambda key, own=own: own(key, picture))(keys) for name, own in augmentations.items()
        }
    )
    many, others = several(KEYS[:6]), several(KEYS[2:8])
    for name, found in many.items():
        assert found.shape == (6, 20, 20, channels) and found.dtype == jnp.float32, name
        assert found.min() >= 0 and found.max() <= 1 and np.ptp(found[0]) > 0.1, name
        np.testing.assert_array_equal(found[2:], others[name][:4], err_msg=name)
        assert len(np.unique(np.asarray(found).reshape(6, -1), axis=0)) == (1 if name == "none" else 6), name


@pytest.mark.parametrize("chance", [0.2, 0.8])
@pytest.mark.parametrize("name", ["flip", "jitter_probability", "grayscale", "blur", "solarize"])
def test_chances(name, chance):
    """Each operation happens with its own chance, and where it does not nothing changes."""
    strengths = dict(jitter=(0.4, 0.4, 0.4, 0.1), blur_side=3)
    found = drawn(dataclasses.replace(STILL, **{name: chance}, **strengths))
    changed = (found != PICTURE).any((1, 2, 3))
    assert stats.binomtest(int(changed.sum()), DRAWS, chance).pvalue > LIKELY
    wanted = {
        "flip": PICTURE[:, ::-1],
        "grayscale": colour.grayscale(PICTURE),
        "solarize": colour.solarize(PICTURE),
    }
    if name in wanted:
        np.testing.assert_allclose(found[changed], np.broadcast_to(wanted[name], found[changed].shape), atol=1e-6)


def test_chances_are_independent():
    """What happens to a picture says nothing of what else does."""
    marked = np.full((6, 6, 3), 0.6, np.float32)
    marked[:, 0], marked[..., 0] = 0.8, 0.9
    found = drawn(dataclasses.replace(STILL, flip=0.5, grayscale=0.5, solarize=0.5), marked)
    inverted = found[..., 1].mean((1, 2)) < 0.5
    upright = np.where(inverted[:, None, None, None], 1 - found, found)
    flipped = upright[:, 0, 5, 2] > upright[:, 0, 0, 2]
    happened = np.stack([flipped, np.isclose(found[..., 0], found[..., 2]).all((1, 2)), inverted])
    counts = np.bincount(np.array([4, 2, 1]) @ happened, minlength=8)
    assert len(counts) == 8 and stats.chisquare(counts).pvalue > LIKELY


def test_blur_has_any_width():
    """Sigma is uniform in its range: of one bright pixel the middle tap is what is left in it."""
    point = np.zeros((9, 9, 1), np.float32)
    point[4, 4] = 1
    kept = np.sqrt(drawn(dataclasses.replace(STILL, blur=1.0, blur_side=5, blur_sigma=(0.5, 1.5)), point)[:, 4, 4, 0])
    grid = np.linspace(0.5, 1.5, 201)
    middle = 1 / np.exp(-0.5 * (np.arange(-2, 3) / grid[:, None]) ** 2).sum(1)  # falls as sigma grows
    sigmas = np.interp(kept, middle[::-1], grid[::-1])
    assert stats.kstest(sigmas, stats.uniform(0.5, 1).cdf).pvalue > LIKELY


def test_the_same_crop_at_another_size():
    """What a key draws does not depend on the size of the result: a slope is cut at the same places."""
    down, right = np.mgrid[:24, :24].astype(np.float32) / 48
    slope = np.stack([down + 0.2, right + 0.2, down], -1)
    fine, coarse = (drawn(Augmentation(size, (0.1, 0.4), method="bilinear"), slope, KEYS[:40]) for size in (12, 6))
    assert np.ptp(fine.mean((1, 2))[:, 0]) > 0.1
    np.testing.assert_allclose(fine.mean((1, 2)), coarse.mean((1, 2)), atol=2e-3)
    assert ((fine[:, 0, 0, 1] > fine[:, 0, -1, 1]) == (coarse[:, 0, 0, 1] > coarse[:, 0, -1, 1])).all()


def test_grey_first():
    """Then jitter never sees a colour: pictures with the same grey become the same."""
    turned = np.asarray(colour.grayscale(PICTURE))
    jittered = dataclasses.replace(
        STILL, jitter_probability=1.0, jitter=(0.4, 0.4, 0.4, 0.4), grayscale=1.0, grey_first=True
    )
    np.testing.assert_allclose(drawn(jittered, PICTURE, KEYS[:9]), drawn(jittered, turned, KEYS[:9]), atol=1e-3)
    last = dataclasses.replace(jittered, grey_first=False)
    assert np.abs(drawn(last, PICTURE, KEYS[:9]) - drawn(last, turned, KEYS[:9])).max() > 0.02


def test_jitter_first():
    """Then contrast is about the mean of the whole picture, not of the crop: equal crops remain different."""
    left = np.random.default_rng(0).random((8, 8, 1), np.float32) * 0.2 + 0.4
    picture, brighter = left.copy(), left.copy()
    brighter[7, 7] = 1.0
    first = Augmentation(
        4, (0.1, 0.2), flip=0.0, jitter_probability=1.0, jitter=(0.0, 0.9, 0.0, 0.0), jitter_first=True
    )
    for each, differs in ((first, True), (dataclasses.replace(first, jitter_first=False), False)):
        apart = np.abs(drawn(each, picture, KEYS[:60]) - drawn(each, brighter, KEYS[:60])).max((1, 2, 3))
        assert ((apart > 1e-6).mean() > 0.95) == differs


def test_draws_are_of_32_bits():
    """A picture is the same whatever the default precision, but for rounding."""
    built = AugmentConfig("byol_second", size=20, blur=1.0, solarize=0.5).build(IMAGES)
    picture = np.random.default_rng(0).random((24, 24, 3), np.float32)
    single = drawn(built, picture, KEYS[:4])
    with jax.enable_x64(True):
        double = drawn(built, picture, KEYS[:4])
    assert double.dtype == np.float64 and single.dtype == np.float32
    np.testing.assert_allclose(double, single, atol=1e-5)


def test_pixels():
    images = Images(2, 3, mean=(0.1, 0.2, 0.3), std=(0.5, 1.0, 2.0))
    coded = np.array([[[0, 51, 255], [255, 0, 102]]], np.uint8)
    picture = pixels.unit(coded)
    np.testing.assert_allclose(picture, [[[0, 0.2, 1], [1, 0, 0.4]]], rtol=1e-6)
    np.testing.assert_array_equal(pixels.unit(picture), picture)
    found = pixels.normalised(picture, images)
    np.testing.assert_allclose(found, [[[-0.2, 0, 0.35], [1.8, -0.2, 0.05]]], atol=1e-6)
    np.testing.assert_allclose(pixels.denormalised(found, images), picture, atol=1e-6)
    assert found.dtype == pixels.unit(coded).dtype == jnp.float32


def test_config_sections():
    """A setting by name, its size that of the pictures; only what is given replaces it."""
    assert AugmentConfig("mae").build(IMAGES) == dataclasses.replace(SETTINGS["mae"], size=32)
    changed = AugmentConfig("simclr", 16, crop=(0.5, 0.5), flip=0.0, blur_side=0, method="bilinear").build(IMAGES)
    wanted = dataclasses.replace(SETTINGS["simclr"], size=16, crop=(0.5, 0.5), flip=0.0, blur_side=0, method="bilinear")
    assert changed == wanted
    assert [AugmentConfig("dino_local").build(Images(size)).size for size in (224, 32, 28, 8)] == [96, 12, 12, 4]
    assert AugmentConfig("dino_local", size=20).build(IMAGES).size == 20

    @dataclasses.dataclass(frozen=True)
    class Section:
        views: AugmentConfig = AugmentConfig("moco_v2", blur=0.0)

    parsed = config.parse(Section, {"views": {"flip": 0.1, "jitter": [0.1, 0.2, 0.3, 0.4]}})
    assert parsed.views == AugmentConfig("moco_v2", blur=0.0, flip=0.1, jitter=(0.1, 0.2, 0.3, 0.4))
    assert config.parse(Section, config.as_dict(parsed)) == parsed
    assert hash(parsed.views.build(IMAGES)) == hash(parsed.views.build(IMAGES))


@pytest.mark.parametrize(
    "given",
    [
        dict(name="simclr2"),
        dict(crop=(0.5, 1.5)),
        dict(crop=(0.5, 0.2)),
        dict(crop=(0.5,)),
        dict(aspect=(0.0, 1.0)),
        dict(method="nearest"),
        dict(flip=1.5),
        dict(blur=-0.5),
        dict(jitter=(0.4, 0.4)),
        dict(jitter=(0.4, 0.4, 0.4, 0.6)),
        dict(blur_side=4),
        dict(blur_sigma=(2.0, 0.1)),
        dict(size=-1),
    ],
    ids=str,
)
def test_nonsense_is_refused(given):
    """In a config file, and most of it in Python too."""
    (key,) = given
    with pytest.raises(ConfigError) as refused:
        config.parse(AugmentConfig, given, "config.objective.views")
    assert key in refused.value.why
    if key not in ("method", "size"):
        with pytest.raises(ConfigError) as refused:
            AugmentConfig(**given)
        assert refused.value.where.endswith(key)


@pytest.mark.parametrize(
    "given, key", [(dict(size=8, blur_side=17), "blur_side"), (dict(name="mae", jitter=(0.4, 0.4, 0.4, 0.1)), "jitter")]
)
def test_what_does_not_fit_is_refused(given, key):
    with pytest.raises(ConfigError) as refused:
        AugmentConfig(**given).build(IMAGES)
    assert refused.value.where.endswith(key)


def test_errors_name_the_section():
    with pytest.raises(ConfigError) as caught:
        AugmentConfig("mae", jitter=(0.1, 0.1, 0.1, 0.1)).build(Images(8), "second")
    assert caught.value.where == "config.objective.second.jitter"
    with pytest.raises(ConfigError) as caught:
        ByolConfig(momentum_steps=1, second=AugmentConfig("byol_second", blur_side=99)).build(
            ResNetConfig((1,)), Images(8), Precision()
        )
    assert caught.value.where == "config.objective.second.blur_side"
