"""Generated pictures: a function of (seed, index), classes that single pixels do not give away."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrainx.data import shapes


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 10**12), st.integers(8, 40))
def test_a_picture_is_a_function_of_seed_index_and_size(seed, index, size):
    image, label = shapes.picture(seed, index, size)
    assert image.shape == (size, size, 3) and image.dtype == np.uint8 and 0 <= label < len(shapes.CLASSES)
    shapes.picture(seed, index + 1, size)  # nothing that is made in between matters
    again, same = shapes.picture(seed, index, size)
    assert (again == image).all() and same == label
    assert shapes.picture(seed, index, 8)[1] == label, "a picture of another size shows the same"
    assert (shapes.picture(seed + 1, index, size)[0] != image).any()


def test_the_pictures_of_a_seed_stay_what_they_are():
    """Runs are compared across versions on them. With a tolerance, since platforms may round a sine differently."""
    levels = np.stack([shapes.picture(0, index, 16)[0].mean((0, 1)) for index in range(3)])
    assert np.allclose(levels, [[114.3, 54.4, 180.6], [178.1, 140.9, 155.5], [110.3, 84.9, 153.4]], atol=0.5)
    assert [shapes.picture(0, index)[1] for index in range(12)] == [0, 6, 6, 3, 3, 4, 4, 4, 6, 6, 7, 1]


@pytest.fixture(scope="module")
def many():
    made = [shapes.picture(3, index, 16) for index in range(1200)]
    return np.stack([image for image, _ in made]) / 255, np.array([label for _, label in made])


def test_all_classes_come_alike_often(many):
    counts = np.bincount(many[1], minlength=len(shapes.CLASSES))
    assert len(counts) == len(shapes.CLASSES) and (abs(counts - 150) < 5 * np.sqrt(150)).all()


def test_colours_and_brightness_do_not_tell_the_class(many):
    images, labels = many
    means = np.stack([images[labels == label].mean((0, 1, 2)) for label in range(len(shapes.CLASSES))])
    # Means of 150 pictures whose own deviate by about 0.2.
    assert np.ptp(means, axis=0).max() < 0.12


def test_pixels_hardly_tell_the_class(many):
    images, labels = many
    flat = images.reshape(len(images), -1)
    assert nearest(flat[:900], labels[:900], flat[900:], labels[900:]) < 0.25


def test_outlines_differ_however_they_are_turned():
    along = np.linspace(-1.2, 1.2, 61)
    v, u = np.meshgrid(along, along, indexing="ij")
    for first, second in itertools.combinations(shapes.CLASSES, 2):
        drawn = shapes._inside(first, u, v)
        for angle in np.linspace(0, 2 * np.pi, 60):
            other = shapes._inside(second, *shapes._turned(angle, u, v))
            assert (drawn & other).sum() < 0.85 * (drawn | other).sum(), (first, second, angle)


def nearest(known, known_labels, asked, asked_labels, count=10):
    distances = (asked**2).sum(1)[:, None] - 2 * asked @ known.T + (known**2).sum(1)[None]
    votes = known_labels[np.argsort(distances, 1)[:, :count]]
    guesses = [np.bincount(row).argmax() for row in votes]
    return (np.array(guesses) == asked_labels).mean()


def test_places_sizes_and_grounds_vary(many):
    images, labels = many
    spread = images[labels == 0].std(0)
    assert spread.min() > 0.1, "no pixel is the same in all pictures of a class"
    with pytest.raises(ValueError, match="no shape"):
        shapes._inside("blob", np.zeros(1), np.zeros(1))


def test_captions_tell_the_facts_and_not_the_size():
    found = [shapes.told(0, index, 12)[1] for index in range(200)]
    assert found[:20] == [shapes.told(0, index, 33)[1] for index in range(20)]
    assert [shapes.CLASSES.index(facts.shape) for facts in found] == [shapes.picture(0, n, 8)[1] for n in range(200)]
    assert {facts.texture for facts in found} == set(shapes.TEXTURES)
    assert {facts.size for facts in found} == {"small", "medium", "large"}
    assert {facts.colour for facts in found} == set(shapes.COLOURS) and {facts.ground for facts in found} > {
        "green",
        "blue",
    }
    facts = shapes.Facts("star", "red", "stripes", "large", "orange")
    assert facts.captions() == (
        "a large red striped star on an orange ground",
        "a red star",
        "a star",
        "a large striped star",
    )
    assert facts._replace(colour="orange", texture="plain").captions()[:2] == (
        "a large orange star on an orange ground",
        "an orange star",
    )
    assert all(len(set(facts.captions())) == 4 for facts in found)


def test_colours_are_named_by_what_is_seen():
    """A large plain disc takes a fifth of the picture or more, and its colour is the shape's own but for noise."""
    colours, shares = np.array(list(shapes.COLOURS.values())), []
    for index in range(300):
        image, facts = shapes.told(5, index, 32)
        if (facts.shape, facts.texture, facts.size) == ("disc", "plain", "large"):
            near = np.linalg.norm(image[:, :, None] / 255 - colours, axis=-1).argmin(-1)
            shares.append((near == list(shapes.COLOURS).index(facts.colour)).mean())
    assert len(shares) > 2 and min(shares) > 0.1 and np.mean(shares) > 0.2
