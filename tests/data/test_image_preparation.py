"""Prepared pictures: decoded once, split by name, whole or not at all, and nothing left out without a word."""

import dataclasses
import hashlib
import json

import numpy as np
import pytest
from PIL import Image

from pretrainx.core.errors import ConfigError, DataError
from pretrainx.core.images import Images
from pretrainx.data import images as images_module
from pretrainx.data.images import ImageConfig, prepare_images
from pretrainx.data.prepared import open_prepared
from pretrainx.data.prepared_images import open_images
from pretrainx.data.splits import fraction
from pretrainx.data.verify import verify
from toys.pictures import encoded, noise, write, write_folder, write_idx, write_records

HELD_OUT = 0.3


def quiet(_):
    """A log that nobody reads."""


@pytest.fixture
def pets(tmp_path):
    write_folder(tmp_path / "pets")
    return ImageConfig(source="folder", paths=(str(tmp_path / "pets"),), held_out=HELD_OUT, bad_limit=0.2)


def test_every_picture_is_in_one_split_with_its_label(pets, tmp_path):
    made, lines = write_folder(tmp_path / "pets"), []
    pictures = prepare_images(pets, tmp_path / "data", lines.append)
    assert lines and all(line.startswith("data: ") for line in lines)
    assert pictures.splits == ("train", "held_out") and pictures.names == ("",)
    for split in pictures.splits:
        held_out = split == "held_out"
        names = [name for name in sorted(made) if (fraction(name) < HELD_OUT) == held_out]
        names = sorted(names, key=fraction) if held_out else names
        images, labels = pictures.arrays(split)
        assert isinstance(images, np.memmap) and images.dtype == np.uint8 and labels.dtype == np.int32
        assert (np.asarray(images) == np.stack([made[name] for name in names])).all()
        assert [pictures.images.classes[label] for label in labels] == [name.partition("/")[0] for name in names]
        facts = pictures.meta["splits"][split]
        assert facts["pictures"] == len(names) > 2 and facts["bad"] == []
        content = (tmp_path / "data" / f"{split}.images.bin").read_bytes()
        assert facts["digest"] == hashlib.sha256(content).hexdigest()
    train = pictures.arrays("train")[0] / 255
    assert np.allclose(pictures.images.mean, train.mean((0, 1, 2)), atol=1e-12)
    assert np.allclose(pictures.images.std, train.std((0, 1, 2)), atol=1e-12)
    assert pictures.about == Images.from_json(json.loads(json.dumps(pictures.images.as_json())))
    with pytest.raises(ConfigError, match="no split 'test'"):
        pictures.arrays("test")


def test_the_split_depends_on_the_name_alone(pets, tmp_path):
    before = np.asarray(prepare_images(pets, tmp_path / "before", quiet).arrays("held_out")[0])
    for number in range(12):
        write(tmp_path / "pets" / "eel" / f"{number}.png", noise(number, 12, 12))
    after = prepare_images(pets, tmp_path / "after", quiet)
    assert after.images.classes == ("cat", "dog", "eel")
    there = [image.tobytes() for image in after.arrays("held_out")[0]]
    places = [there.index(image.tobytes()) for image in before]
    assert places == sorted(places) and len(there) > len(before)


def test_the_first_pictures_of_what_is_evaluated_are_of_all_classes(tmp_path):
    """What is drawn, measured and scored up to a limit are the first so many."""
    for part in ("train", "test"):
        for number in range(80):
            write(tmp_path / part / f"class{number // 20}" / f"{number}.png", noise(number, 4, 4))
    paths = {"paths": (str(tmp_path / "train"),), "test_paths": (str(tmp_path / "test"),)}
    config = ImageConfig(source="folder", held_out=0.5, **paths)
    pictures = prepare_images(config, tmp_path / "data", quiet)
    for split in ("held_out", "test"):
        assert len(set(pictures.arrays(split)[1][:16].tolist())) == 4
    images, labels = (np.asarray(each) for each in pictures.arrays("test"))
    assert {(image.tobytes(), label) for image, label in zip(images, labels, strict=True)} == {
        (noise(number, 4, 4).tobytes(), number // 20) for number in range(80)
    }


def test_files_that_are_passed_over_are_counted(pets, tmp_path):
    for name in ("a.txt", "b.psd"):
        (tmp_path / "pets" / "cat" / name).write_text("x")
    lines = []
    prepare_images(pets, tmp_path / "data", lines.append)
    assert any("2 files passed over" in line for line in lines)
    assert open_images(tmp_path / "data").passed_over == 2, "a run that only opens them tells of it too"


def test_the_order_of_directory_entries_does_not_matter(pets, tmp_path, monkeypatch):
    first = prepare_images(pets, tmp_path / "one", quiet)
    walk = images_module.image_sources.files.__globals__["os"].walk

    def backwards(root):
        for directory, directories, names in walk(root):
            directories.reverse()
            yield directory, directories, names[::-1]

    monkeypatch.setattr("pretrainx.data.sources.os.walk", backwards)
    assert prepare_images(pets, tmp_path / "two", quiet).meta == first.meta


def test_prepared_twice_it_is_the_same_bytes_and_again_it_is_opened(pets, tmp_path, monkeypatch):
    first = prepare_images(pets, tmp_path / "one", quiet)
    prepare_images(pets, tmp_path / "two", quiet)
    for path in sorted((tmp_path / "one").iterdir()):
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"pets", "one", "two"}
    monkeypatch.setattr(images_module, "_make", lambda *_: pytest.fail("made again"))
    assert prepare_images(dataclasses.replace(pets, cache="x"), tmp_path / "one", quiet) == first
    assert open_images(tmp_path / "one") == first


def test_another_configuration_is_refused_by_field_and_values(pets, tmp_path):
    prepare_images(pets, tmp_path / "data", quiet)
    for name, value in {"size": 8, "channels": 1, "held_out": 0.4, "limit": 5, "bad": "stop", "paths": ("x",)}.items():
        with pytest.raises(DataError) as caught:
            prepare_images(dataclasses.replace(pets, **{name: value}), tmp_path / "data", quiet)
        assert f"config.data.{name}" in str(caught.value)
        assert repr(list(value) if name == "paths" else value) in str(caught.value)


@pytest.mark.parametrize("name", ["train.images.bin", "train.labels.bin", "held_out.images.bin", "data.json"])
def test_a_damaged_or_missing_file_is_named(pets, tmp_path, name):
    prepare_images(pets, tmp_path / "data", quiet)
    path = tmp_path / "data" / name
    intact = path.read_bytes()
    for damaged in (bytes([intact[0] ^ 1]) + intact[1:], intact[:-4], None):
        path.write_bytes(damaged) if damaged else path.unlink()
        with pytest.raises(DataError) as caught:
            prepare_images(pets, tmp_path / "data", quiet)
        assert str(path) in str(caught.value) and caught.value.do


def test_text_and_pictures_are_not_taken_for_one_another(pets, tmp_path):
    from pretrainx.data.text import TextConfig, prepare

    prepare_images(pets, tmp_path / "data", quiet)
    with pytest.raises(DataError, match="does not hold prepared text") as caught:
        open_prepared(tmp_path / "data")
    assert "it holds prepared pictures" in str(caught.value)
    for number in range(8):
        write_text = (tmp_path / "texts" / f"{number}.txt").write_text
        (tmp_path / "texts").mkdir(exist_ok=True)
        write_text("some words\n" * 5)
    text = TextConfig(source="text", paths=(str(tmp_path / "texts"),), tokenizer="bytes", held_out=0.5)
    prepare(text, tmp_path / "text", quiet)
    with pytest.raises(DataError, match="does not hold prepared pictures"):
        open_images(tmp_path / "text")


def test_an_interrupted_preparation_never_looks_complete(pets, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(images_module, "write_description", stop)
    with pytest.raises(KeyboardInterrupt):
        prepare_images(pets, tmp_path / "data", quiet)
    assert {path.name for path in tmp_path.iterdir()} == {"pets"}


def spoil(root):
    """Three of the training pictures of `pets` become unusable, each in its own way; their names."""
    names = [path.relative_to(root).as_posix() for path in sorted(root.rglob("*.png"))]
    cut, bomb, foreign = [name for name in names if fraction(name) >= HELD_OUT][:3]
    (root / cut).write_bytes((root / cut).read_bytes()[:-60])
    (root / bomb).write_bytes(encoded(Image.new("L", (2000, 2000))))
    (root / foreign).write_text("no picture")
    return cut, bomb, foreign


def test_bad_pictures_are_skipped_by_name_and_counted(pets, tmp_path):
    whole = len(prepare_images(pets, tmp_path / "whole", quiet).arrays("train")[0])
    names, lines = spoil(tmp_path / "pets"), []
    config = dataclasses.replace(pets, pixel_limit=10**6)
    pictures = prepare_images(config, tmp_path / "data", lines.append)
    images, labels = pictures.arrays("train")
    assert len(images) == len(labels) == whole - 3
    bad = pictures.meta["splits"]["train"]["bad"]
    assert [entry["name"] for entry in bad] == list(names) and pictures.meta["splits"]["held_out"]["bad"] == []
    assert "truncated" in bad[0]["why"].lower() and "4000000 pixels" in bad[1]["why"]
    assert [any(f"skipped {name}" in line for line in lines) for name in names] == [True] * 3
    assert "3 skipped" in verify(tmp_path / "data")[0]
    assert pictures.bad_records == open_images(tmp_path / "data").bad_records == {"train": 3}


def test_too_many_bad_pictures_or_one_where_none_may_be(pets, tmp_path):
    first, *_ = spoil(tmp_path / "pets")
    with pytest.raises(DataError, match="cannot be used") as caught:
        prepare_images(dataclasses.replace(pets, bad="stop"), tmp_path / "data", quiet)
    assert caught.value.where == first and "skip" in caught.value.do
    with pytest.raises(DataError, match="too many pictures") as caught:
        prepare_images(
            dataclasses.replace(pets, bad_limit=0.01), tmp_path / "data", quiet
        )  # one may be: the second is too many
    assert "2 of 20" in caught.value.why and first in caught.value.why and "bad_limit" in caught.value.do
    assert {path.name for path in tmp_path.iterdir()} == {"pets"}


def test_one_form_for_all(tmp_path):
    for number in range(12):
        write(tmp_path / "mixed" / f"{number}.png", noise(number, 10 + number % 3, 12, 1 if number == 5 else 3))
    config = ImageConfig(source="folder", paths=(str(tmp_path / "mixed"),), held_out=HELD_OUT)
    with pytest.raises(DataError, match="not square|differ in form") as caught:
        prepare_images(config, tmp_path / "data", quiet)
    assert "config.data.size" in caught.value.do
    pictures = prepare_images(dataclasses.replace(config, size=8, channels=3), tmp_path / "data", quiet)
    assert (pictures.images.size, pictures.images.channels, pictures.images.classes) == (8, 3, ())
    assert pictures.arrays("train")[1] is None and not (tmp_path / "data" / "train.labels.bin").exists()
    for number in range(12):
        write(tmp_path / "square" / f"{number}.png", noise(number, 9, 9, 1 if number == 5 else 3))
    square = dataclasses.replace(config, paths=(str(tmp_path / "square"),))
    with pytest.raises(DataError, match="differ in form"):
        prepare_images(square, tmp_path / "other", quiet)
    grey = prepare_images(dataclasses.replace(square, channels=1), tmp_path / "grey", quiet)
    assert grey.images.channels == len(grey.images.mean) == 1


def test_labels_for_all_pictures_or_for_none(pets, tmp_path):
    write(tmp_path / "pets" / "stray.png", noise(0, 12, 12))
    with pytest.raises(DataError, match="some pictures have a label"):
        prepare_images(pets, tmp_path / "data", quiet)


def test_a_test_set_has_the_classes_of_training_and_none_of_its_files(tmp_path):
    images = np.stack([noise(number, 6, 6, 1) for number in range(40)])
    train = write_idx(tmp_path, "train", images, np.arange(40) % 4)
    test = write_idx(tmp_path, "t10k", images[:10] // 2, np.arange(10) % 4)
    config = ImageConfig(source="idx", paths=(str(train),), test_paths=(str(test),), held_out=HELD_OUT)
    pictures = prepare_images(config, tmp_path / "data", quiet)
    assert pictures.splits == ("train", "held_out", "test") and pictures.images.classes == ("0", "1", "2", "3")
    found, labels = pictures.arrays("test")
    order = sorted(range(10), key=lambda n: fraction(f"{test.name}:{n}"))
    assert (found[..., 0] == images[order] // 2).all() and labels.tolist() == [n % 4 for n in order]
    assert np.allclose(pictures.images.mean, (pictures.arrays("train")[0] / 255).mean()), "of training pixels only"
    with pytest.raises(ConfigError, match="both trained and tested on"):
        prepare_images(dataclasses.replace(config, test_paths=(str(train),)), tmp_path / "none", quiet)
    write_idx(tmp_path, "t10k", images[:10], np.full(10, 7))
    with pytest.raises(DataError, match="of no class of the training pictures") as caught:
        prepare_images(config, tmp_path / "none", quiet)
    assert "7" in caught.value.why and "the split test" in caught.value.where
    write_idx(tmp_path, "train", images, np.full(40, 255))
    (tmp_path / "classes.txt").write_text("a\nb\n")
    with pytest.raises(DataError, match="of no class"):
        prepare_images(config, tmp_path / "none", quiet)


def test_a_limit_takes_some_of_every_class_and_more_contain_fewer(tmp_path):
    labels = np.repeat(np.arange(4), 50)
    path = write_idx(tmp_path, "train", np.arange(200)[:, None, None] + np.zeros((1, 2, 2)), labels)
    config = ImageConfig(source="idx", paths=(str(path),), held_out=0.1)
    taken = {}
    for limit in (20, 60, 0):
        pictures = prepare_images(dataclasses.replace(config, limit=limit), tmp_path / str(limit), quiet)
        images, labels = pictures.arrays("train")
        assert len(images) == limit or not limit
        assert len(np.unique(labels)) == 4 and (np.diff(images[:, 0, 0, 0].astype(int)) > 0).all()
        taken[limit] = set(images[:, 0, 0, 0].tolist())
        held_out = set(pictures.arrays("held_out")[0][:, 0, 0, 0].tolist())
        assert not held_out & taken[limit], "whatever the limit, what is held out is not trained on"
    assert len(held_out) + len(taken[0]) == 200
    assert taken[20] < taken[60] < taken[0]


def test_shapes_come_in_the_numbers_asked_for_with_a_test_set_of_their_own(tmp_path):
    pictures = prepare_images(ImageConfig(limit=90, size=10, held_out=0.25), tmp_path / "data", quiet)
    counts = {split: pictures.meta["splits"][split]["pictures"] for split in pictures.splits}
    assert counts["train"] == 90 and 15 < counts["held_out"] < 50 and counts["test"] == 22
    assert pictures.images.size == 10 and pictures.images.classes[0] == "disc"
    seen = {image.tobytes() for split in pictures.splits for image in pictures.arrays(split)[0]}
    assert len(seen) == sum(counts.values()), "no picture is in two splits"
    grey = prepare_images(ImageConfig(limit=90, size=10, held_out=0.25, channels=1), tmp_path / "grey", quiet)
    assert grey.images.channels == 1


def test_splits_without_pictures_are_refused(pets, tmp_path):
    with pytest.raises(DataError, match="no picture is held out"):
        prepare_images(dataclasses.replace(pets, held_out=0.0), tmp_path / "data", quiet)
    alone = dataclasses.replace(pets, paths=(str(tmp_path / "pets" / "cat" / "003.png"),), held_out=0.9)
    with pytest.raises(DataError, match="every picture is held out"):
        prepare_images(alone, tmp_path / "data", quiet)
    np.savez(tmp_path / "some.npz", images=np.zeros((60, 2, 2), np.uint8))
    np.savez(tmp_path / "none.npz", images=np.zeros((0, 2, 2), np.uint8))
    paths = {"paths": (str(tmp_path / "some.npz"),), "test_paths": (str(tmp_path / "none.npz"),)}
    with pytest.raises(DataError, match="no picture of a split"):
        prepare_images(ImageConfig(source="npz", held_out=HELD_OUT, **paths), tmp_path / "data", quiet)


def test_records_are_decoded_by_threads_in_their_order(tmp_path):
    images = [noise(number, 8, 8) for number in range(300)]
    path = write_records(tmp_path / "x.array_record", [encoded(Image.fromarray(image)) for image in images])
    config = ImageConfig(source="array_record", paths=(str(path),), held_out=0.1)
    pictures = prepare_images(config, tmp_path / "data", quiet)
    expected = [image for number, image in enumerate(images) if fraction(f"x.array_record:{number}") >= 0.1]
    assert (pictures.arrays("train")[0] == np.stack(expected)).all() and len(expected) > 256


def test_verify_counts_again(pets, tmp_path):
    prepare_images(pets, tmp_path / "data", quiet)
    lines = verify(tmp_path / "data")
    assert [line.partition(":")[0] for line in lines] == ["train", "held_out"] and "2 classes" in lines[0]
    meta = json.loads((tmp_path / "data" / "data.json").read_text())
    meta["splits"]["train"]["counts"][0] += 1
    del meta["digest"]
    images_module.write_description(tmp_path / "data", meta)
    with pytest.raises(DataError, match="train.labels.bin"):
        verify(tmp_path / "data")
