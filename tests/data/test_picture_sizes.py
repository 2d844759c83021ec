"""The sizes of pictures in their source: counted before these are cropped and resized, and told."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from pretrainx.core.errors import DataError
from pretrainx.data import picture_sizes
from pretrainx.data.decoding import decode, measured
from pretrainx.data.directory import write_description
from pretrainx.data.images import ImageConfig, prepare_images
from pretrainx.data.pairs import prepare_pairs
from pretrainx.data.prepared_images import open_images
from toys.pair_files import members, record, write_set
from toys.pictures import encoded, noise, write


def quiet(_):
    """A log that nobody reads."""


def test_a_picture_is_measured_as_it_is_turned_and_before_it_is_cut():
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise
    content = encoded(Image.fromarray(noise(0, 20, 40)), "JPEG", exif=exif)
    array, size = measured(content, 8, 3, 10**6)
    assert size == (40, 20) and array.shape == (8, 8, 3) and (array == decode(content, 8, 3, 10**6)).all()
    for plain in (noise(1, 7, 9), noise(1, 7, 9, 1)):
        assert measured(plain, 5, 1, 10**6)[1] == measured(plain, 0, 0, 10**6)[1] == (7, 9)


def test_sizes_are_ordered_by_the_side_that_is_cut():
    sizes = np.array([[10, 10], [4, 90], [90, 4], [12, 11], [4, 80]])
    assert picture_sizes.counted(sizes, 10) == {
        "smallest": [4, 80],
        "median_side": 4.0,
        "largest": [12, 11],
        "cropped": 4,
        "enlarged": 3,
    }
    assert picture_sizes.counted(sizes[:1], 0)["enlarged"] == 0
    assert picture_sizes.told(picture_sizes.counted(sizes[:4], 10)) == (
        "height x width in the source 4 x 90 to 12 x 11, median side 7; 3 not square and cropped, 2 smaller and enlarged"
    )


def test_pairs_count_the_sizes_of_the_pictures_that_are_kept(tmp_path):
    records, train, lines = [record(number) for number in range(60)], members("train"), []
    config = dataclasses.replace(write_set(tmp_path / "set", records), size=6, bad_limit=0.2)
    for number, shape in zip(train[:4], ((5, 6), (9, 7), (4, 4), (2, 2)), strict=True):
        write(tmp_path / "set" / records[number]["image"], noise(number, *shape))
    records[train[3]]["captions"] = []  # a bad picture has no size
    (tmp_path / "set" / "pairs.jsonl").write_text("".join(json.dumps(each) + "\n" for each in records))
    pairs = prepare_pairs(config, tmp_path / "data", lines.append)
    facts = pairs.meta["splits"]
    assert facts["train"]["sizes"] == {
        "smallest": [4, 4],
        "median_side": 6.0,
        "largest": [9, 7],
        "cropped": 2,
        "enlarged": 2,
    }
    assert facts["held_out"]["sizes"]["smallest"] == facts["held_out"]["sizes"]["largest"] == [6, 6]
    assert f"data: train, {picture_sizes.told(facts['train']['sizes'])}" in lines


def test_plain_pictures_count_them_too_and_directories_without_are_opened(tmp_path, capsys):
    from pretrainx.cli.data import _summarise_pictures

    pictures = prepare_images(ImageConfig(limit=40, size=8, held_out=0.3), tmp_path / "data", quiet)
    assert [pictures.meta["splits"][split]["sizes"]["cropped"] for split in pictures.splits] == [0, 0, 0]
    _summarise_pictures(pictures)
    assert "held_out: height x width in the source 8 x 8" in capsys.readouterr().out
    meta = json.loads((tmp_path / "data" / "data.json").read_text())
    del meta["digest"]
    for facts in meta["splits"].values():
        del facts["sizes"]
    write_description(tmp_path / "data", meta)
    _summarise_pictures(open_images(tmp_path / "data"))
    assert "in the source" not in capsys.readouterr().out


@pytest.mark.parametrize("label", [-(10**21), 10**30, -1])
@pytest.mark.parametrize("split", ["train", "test"])
def test_labels_that_no_array_holds_are_refused(tmp_path, label, split):
    records = [record(number) | {"label": number % 2} for number in range(60)]
    others = [record(number) | {"label": 0} for number in range(4)]
    if split == "train":
        records = [each | {"label": label} for each in records]
    else:
        others[1]["label"] = label
    config = write_set(tmp_path / "set", records)
    write_set(tmp_path / "other", others)
    config = dataclasses.replace(config, test_paths=(str(tmp_path / "other" / "pairs.jsonl"),))
    with pytest.raises(DataError, match="a label is (of no class|too large)") as caught:
        prepare_pairs(config, tmp_path / "data", quiet)
    assert str(label) in caught.value.why
