"""Pairs that break what reads them: half surrogates, paths that no file can have, and pictures of two splits."""

import dataclasses
import io
import json
import tarfile

import pytest
from PIL import Image

from pretrainx.core.errors import ConfigError, DataError
from pretrainx.data import pair_sources
from pretrainx.data.decoding import BadPictureError
from pretrainx.data.pairs import prepare_pairs
from toys.pair_files import members, record, write_set
from toys.pictures import encoded, noise, write

HALF = "\ud83d"


def quiet(_):
    """A log that nobody reads."""


def write_jsonl(path, records):
    path.write_text("".join(json.dumps(each) + "\n" for each in records))
    return path


def write_tar(path, contents):
    with tarfile.open(path, "w") as opened:
        for name, content in contents.items():
            item = tarfile.TarInfo(name)
            item.size = len(content)
            opened.addfile(item, io.BytesIO(content))
    return path


@pytest.mark.parametrize("field", ["image", "label", "group", "caption"])
def test_half_a_surrogate_pair_makes_a_bad_picture(tmp_path, field):
    write(tmp_path / "0.png", noise(0, 6, 6))
    broken = {"image": "0.png", "caption": "x", "label": "cat", "group": "g"} | {field: f"a{HALF}"}
    source = pair_sources.jsonl((str(write_jsonl(tmp_path / "x.jsonl", [broken])),))
    (pair,) = source.read([0])
    assert isinstance(pair.content, BadPictureError) and "not valid Unicode" in str(pair.content)
    assert "\\ud83d" in str(pair.content) and str(pair.content).isascii()
    assert source.names == ["x.jsonl:1" if field == "image" else "0.png"]
    assert source.groups == [source.names[0] if field == "group" else "g"]
    del broken["image"]
    shard = write_tar(
        tmp_path / "x.tar", {"0.png": (tmp_path / "0.png").read_bytes(), "0.json": json.dumps(broken).encode()}
    )
    source = pair_sources.tar((str(shard),))
    (pair,) = source.read([0])
    assert isinstance(pair.content, BadPictureError) == (field != "image")
    assert source.groups == [source.names[0] if field == "group" else "g"]


def test_what_is_not_unicode_is_skipped_by_policy_and_named(tmp_path):
    train, lines, records = members("train"), [], [record(number) for number in range(60)]
    config = dataclasses.replace(write_set(tmp_path / "set", records), bad_limit=0.2)
    # Two lines of the same broken path are no picture in two lines; the split of the second is that of its group.
    for number in train[:2]:
        records[number]["image"] = f"{HALF}.png"
    records[train[2]]["label"] = HALF
    write_jsonl(tmp_path / "set" / "pairs.jsonl", records)
    pairs = prepare_pairs(config, tmp_path / "data", lines.append)
    bad = pairs.meta["splits"]["train"]["bad"]
    names = [*(f"pairs.jsonl:{number + 1}" for number in train[:2]), records[train[2]]["image"]]
    assert [each["name"] for each in bad] == names and all("not valid Unicode" in each["why"] for each in bad)
    assert pairs.images.classes == ("cat", "dog") and "\n".join(lines).isascii()
    with pytest.raises(DataError, match="a picture cannot be used"):
        prepare_pairs(dataclasses.replace(config, bad="stop"), tmp_path / "none", quiet)


def test_a_skipped_name_of_other_bytes_can_be_printed(tmp_path):
    contents = {}
    for number in range(30):
        contents |= {f"{number}.png": encoded(Image.fromarray(noise(number, 6, 6))), f"{number}.txt": b"x"}
    contents |= {f"\udcff{number}.png": b"" for number in range(4)}
    config = dataclasses.replace(write_set(tmp_path / "set", [record(0)]), source="tar", bad_limit=0.5)
    lines, shard = [], write_tar(tmp_path / "x.tar", contents)
    prepare_pairs(dataclasses.replace(config, paths=(str(shard),)), tmp_path / "data", lines.append)
    assert any("skipped x.tar:\\udcff" in line for line in lines) and "\n".join(lines).encode()


def test_a_path_that_no_file_can_have_makes_a_bad_picture(tmp_path):
    (tmp_path / "loop.png").symlink_to("loop.png")
    images = ["a" * 300 + ".png", "b/" * 3000 + "c.png", "loop.png", "absent.png"]
    path = write_jsonl(tmp_path / "x.jsonl", [{"image": image, "caption": "x"} for image in images])
    for pair in pair_sources.jsonl((str(path),)).read(range(4)):
        assert isinstance(pair.content, BadPictureError) and "there is no file" in str(pair.content)
        assert len(str(pair.content)) < 200


def test_a_disk_that_fails_is_no_bad_picture(tmp_path, monkeypatch):
    path = write_jsonl(tmp_path / "x.jsonl", [{"image": "0.png", "caption": "x"}])

    def fails(_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(pair_sources.Path, "read_bytes", fails)
    with pytest.raises(DataError, match="a picture cannot be read"):
        list(pair_sources.jsonl((str(path),)).read([0]))


def test_a_picture_that_lines_of_both_name_is_refused(tmp_path):
    root = tmp_path / "set"
    config = write_set(root, [record(number) for number in range(60)])
    other = tmp_path / "other"
    other.mkdir()
    (other / "linked.png").symlink_to(root / record(0)["image"])
    (other / "loop.png").symlink_to("loop.png")
    write(other / "own.png", noise(99, 6, 6))
    named = {"same": root, "linked": other}
    write_jsonl(root / "same.jsonl", [{"image": record(0)["image"], "caption": "x"}])
    write_jsonl(other / "linked.jsonl", [{"image": "linked.png", "caption": "x"}])
    for name, folder in named.items():
        both = dataclasses.replace(config, test_paths=(str(folder / f"{name}.jsonl"),))
        with pytest.raises(ConfigError, match="a picture is both trained and tested on") as caught:
            prepare_pairs(both, tmp_path / "data", quiet)
        assert caught.value.why == str((root / record(0)["image"]).resolve())
    images = ("own.png", "loop.png", f"{HALF}.png")
    write_jsonl(other / "own.jsonl", [{"image": image, "caption": "x", "label": "cat"} for image in images])
    alone = dataclasses.replace(config, test_paths=(str(other / "own.jsonl"),), bad_limit=0.5)
    with pytest.raises(DataError, match="too many pictures"):  # but not for naming one of the others
        prepare_pairs(alone, tmp_path / "data", quiet)
