"""Rows of pictures: a function of (seed, step), every held-out picture once, and a fingerprint of all that decides them."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest

from pretrainx.core.errors import ConfigError, DataError
from pretrainx.core.records import ImageRows
from pretrainx.data.images import ImageConfig, prepare_images
from pretrainx.data.prepared_images import open_images
from toys.pictures import noise, write, write_idx
from toys.seeking import check_late_steps

PLAIN, LABELLED = ImageRows(6, 1), ImageRows(6, 1, ("label",))


def numbered(count):
    """Pictures that hold their own number in two pixels."""
    images = np.zeros((count, 6, 6), np.uint8)
    images[:, 0, 0], images[:, 0, 1] = np.arange(count) % 256, np.arange(count) // 256
    return images


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    path = write_idx(root, "train", numbered(600), np.arange(600) % 7)
    config = ImageConfig(source="idx", paths=(str(path),), held_out=0.1)
    return prepare_images(config, root / "data", lambda line: None)


def test_batches_are_what_the_objective_reads(pictures):
    for reads in (PLAIN, LABELLED):
        batch, spec = pictures.training_rows(reads, 8, 0).batch(5), reads.spec(8)
        assert {name: (leaf.shape, jnp.dtype(leaf.dtype)) for name, leaf in batch.items()} == {
            name: (leaf.shape, jnp.dtype(leaf.dtype)) for name, leaf in spec.items()
        }
        assert batch["valid"].all()
    rows = pictures.training_rows(LABELLED, 8, 0)
    images, labels = pictures.arrays("train")
    batch, numbers = rows.batch(3), rows.numbers(3)
    assert (batch["image"] == images[numbers]).all() and (batch["label"] == labels[numbers]).all()
    with pytest.raises(IndexError):
        rows.source.rows([len(rows.source)])


def test_a_step_s_batch_is_the_same_at_any_time(pictures):
    rows = pictures.training_rows(PLAIN, 16, 7)
    expected = {step: rows.batch(step)["image"] for step in range(100)}
    again = open_images(pictures.directory).training_rows(PLAIN, 16, 7)
    for step in (99, 3, 50, 3, 0, 77):
        assert (again.batch(step)["image"] == expected[step]).all()
        assert again.record_hash(step) == rows.record_hash(step)
    other = pictures.training_rows(PLAIN, 16, 8)
    assert all(other.record_hash(step) != rows.record_hash(step) for step in range(100))
    # Labels are read beside the same pictures.
    assert (pictures.training_rows(LABELLED, 16, 7).batch(42)["image"] == expected[42]).all()


def test_each_epoch_is_a_permutation_of_all_pictures(pictures):
    rows, count = pictures.training_rows(PLAIN, 16, 1), pictures.meta["splits"]["train"]["pictures"]
    numbers = np.concatenate([rows.numbers(step) for step in range(3 * count // 16 + 1)])
    for epoch in range(3):
        assert sorted(numbers[epoch * count : (epoch + 1) * count]) == list(range(count))
    assert rows.epoch(count // 16 + 1) == 1
    assert pictures.epochs(3 * count, PLAIN) == {"": 3.0}
    check_late_steps(rows)


@pytest.mark.parametrize("batch_size", [1, 16, 600])
@pytest.mark.parametrize("limit", [0, 17, 10**6])
def test_every_held_out_picture_exactly_once(pictures, batch_size, limit):
    images, labels = pictures.arrays("held_out")
    count = min(limit, len(images)) if limit else len(images)
    batches = list(pictures.held_out("", LABELLED, limit).batches(batch_size))
    assert len(batches) == -(-count // batch_size)
    together = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    assert together["valid"].tolist() == [True] * count + [False] * (len(together["valid"]) - count)
    assert (together["image"][:count] == images[:count]).all() and (together["label"][:count] == labels[:count]).all()
    assert not together["image"][count:].any() and not together["label"][count:].any()


def test_training_and_held_out_pictures_are_apart(pictures):
    number = lambda images: {int(image[0, 0, 0]) + 256 * int(image[0, 1, 0]) for image in images}
    train, held_out = (number(pictures.arrays(split)[0]) for split in ("train", "held_out"))
    assert train | held_out == set(range(600)) and not train & held_out


def test_what_pictures_do_not_have_is_refused(pictures, tmp_path):
    with pytest.raises(ConfigError, match="another form"):
        pictures.training_rows(ImageRows(8, 1), 4, 0)
    with pytest.raises(DataError, match="a batch takes 1000") as caught:
        pictures.training_rows(PLAIN, 1000, 0)
    assert "config.data.limit" in caught.value.do
    with pytest.raises(ConfigError, match="unknown part"):
        pictures.held_out("prose", PLAIN)
    for number in range(20):
        write(tmp_path / "flat" / f"{number}.png", noise(number, 6, 6, 1))
    config = ImageConfig(source="folder", paths=(str(tmp_path / "flat"),), held_out=0.2)
    flat = prepare_images(config, tmp_path / "data", lambda line: None)
    assert flat.training_rows(PLAIN, 4, 0).batch(0)["image"].shape == (4, 6, 6, 1)
    with pytest.raises(ConfigError, match="the pictures have none"):
        flat.training_rows(LABELLED, 4, 0)


def test_the_fingerprint_names_all_that_decides_the_rows(pictures, tmp_path):
    given = {"seed": 3, "batch_size": 4, "reads": PLAIN}
    fingerprint = pictures.fingerprint(**given)
    assert json.loads(json.dumps(fingerprint)) == fingerprint
    assert str(pictures.directory) not in json.dumps(fingerprint)
    for change in ({"seed": 4}, {"batch_size": 5}, {"reads": LABELLED}):
        assert pictures.fingerprint(**{**given, **change}) != fingerprint
    images = numbered(600)
    path = write_idx(tmp_path, "train", images, np.arange(600) * 3 % 7)
    config = ImageConfig(source="idx", paths=(str(path),), held_out=0.1)
    relabelled = prepare_images(config, tmp_path / "relabelled", lambda line: None)
    assert relabelled.fingerprint(**given) == fingerprint, "labels that nobody reads decide nothing"
    labelled = {**given, "reads": LABELLED}
    assert relabelled.fingerprint(**labelled) != pictures.fingerprint(**labelled)
    images[5, 5, 5] += 1
    write_idx(tmp_path, "train", images, np.arange(600) % 7)
    changed = prepare_images(config, tmp_path / "changed", lambda line: None)
    assert changed.fingerprint(**given) != fingerprint


def test_few_labels_of_each_class(pictures):
    """So many of each, all different, those of a seed within the more of it; the fingerprint tells them apart."""
    few = lambda count, seed=0: dataclasses.replace(pictures, labels=count, labels_seed=seed)
    pixels = lambda data, reads=LABELLED: {
        bytes(row) for row in data.rows("train", reads).rows(range(7 * data.labels))["image"]
    }
    assert np.bincount(few(5).rows("train", LABELLED).rows(range(35))["label"]).tolist() == [5] * 7
    assert len(few(5).rows("train", LABELLED)) == 35 == len(pixels(few(5)))
    assert pixels(few(5)) < pixels(few(9)) and pixels(few(5)) != pixels(few(5, 1))
    assert pixels(few(5)) == pixels(few(5), PLAIN), "the same pictures where no label is read"
    assert few(5).fingerprint(0, 8, PLAIN) != pictures.fingerprint(0, 8, PLAIN) != few(5, 1).fingerprint(0, 8, PLAIN)
    assert few(5).epochs(70, LABELLED) == {"": 2.0}
    assert len(few(5).held_out("", LABELLED).rows) == len(pictures.held_out("", LABELLED).rows)
