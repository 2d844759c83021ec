"""Where pictures with captions come from: names, groups, labels, captions of every kind of source, and what is refused."""

import gzip
import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from pretrainx.core.errors import DataError
from pretrainx.data import pair_sources, shapes
from pretrainx.data.decoding import BadPictureError, decode
from toys.pictures import encoded, noise, write, write_records
from toys.tf_example import example_class


def png(seed, size=6):
    return encoded(Image.fromarray(noise(seed, size, size)))


def all_of(source):
    return dict(zip(source.names, source.read(range(len(source.names))), strict=True))


def write_jsonl(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def write_tar(path, members, mode="w"):
    """members: (name, bytes) in order."""
    with tarfile.open(path, mode) as opened:
        for name, content in members:
            item = tarfile.TarInfo(name)
            item.size = len(content)
            opened.addfile(item, io.BytesIO(content))
    return path


def why(pair):
    assert isinstance(pair.content, BadPictureError), pair
    return str(pair.content)


def test_lines_of_json_beside_their_pictures(tmp_path):
    for number in range(4):
        write(tmp_path / "set" / "images" / f"{number}.png", noise(number, 6, 6))
    path = write_jsonl(
        tmp_path / "set" / "pairs.jsonl",
        [
            {"image": "images/0.png", "caption": "  a cat \n"},
            {"image": "images/1.png", "captions": ["one", "", "two", "one", " \t"], "label": "dog", "group": "g"},
            {"image": "./images/2.png", "caption": "first", "captions": ["second"], "label": 3, "group": 7},
            {"image": "images/3.png", "caption": None, "captions": None, "group": ""},
        ],
    )
    path.write_text(path.read_text() + "\n")  # a blank line is none
    source = pair_sources.jsonl((str(path),))
    assert source.names == [f"images/{number}.png" for number in range(4)]
    assert source.groups == ["images/0.png", "g", "7", "images/3.png"]
    first, second, third, fourth = source.read(range(4))
    assert (decode(first.content, 0, 0, 100) == noise(0, 6, 6)).all()
    assert (first.captions, first.label, first.empty) == (("a cat",), None, 0)
    assert (second.captions, second.label, second.empty) == (("one", "two"), "dog", 2)
    assert (third.captions, third.label) == (("first", "second"), 3)
    assert why(fourth) == "it has no caption"
    assert [pair.label for pair in source.read([1, 2])] == ["dog", 3]
    # Named from the directory on that is given, wherever that lies.
    assert pair_sources.jsonl((str(tmp_path),)).names[0] == "set/images/0.png"


def test_a_line_that_cannot_be_used_makes_a_bad_picture(tmp_path):
    write(tmp_path / "0.png", noise(0, 6, 6))
    cases = (
        ({"caption": 3}, "a caption is a int, not a text"),
        ({"captions": ["x", ["y"]]}, "a caption is a list"),
        ({"caption": "x", "label": [1]}, "its label is a list"),
        ({"caption": "x", "label": True}, "its label is a bool"),
        ({"caption": " ", "captions": [""]}, "no caption but 2 empty ones"),
        ({"caption": "\ud83d"}, "not valid Unicode"),
        ({"captions": "x", "image": "nowhere.png"}, "there is no file nowhere.png"),
    )
    for record, says in cases:
        path = write_jsonl(tmp_path / "x.jsonl", [{"image": "0.png"} | record])
        (pair,) = pair_sources.jsonl((str(path),)).read([0])
        assert says in why(pair)


@pytest.mark.parametrize(
    "image", ["../0.png", "/etc/hostname", "a/../../0.png", "..", "..\\0.png", "a\0b", "", 3, None, "absent"]
)
def test_a_picture_outside_the_directory_is_refused(tmp_path, image):
    write(tmp_path / "0.png", noise(0, 6, 6))
    record = {"caption": "x"} if image == "absent" else {"caption": "x", "image": image}
    path = write_jsonl(tmp_path / "in" / "x.jsonl", [record])
    with pytest.raises(DataError, match="lies outside|names no picture") as caught:
        pair_sources.jsonl((str(path),))
    assert f"{path}:1" in str(caught.value)


@pytest.mark.parametrize("line, says", [(b"{", "is not JSON"), (b"[1]", "no JSON object"), (b"\xff", "is not JSON")])
def test_a_line_that_is_no_object_is_named(tmp_path, line, says):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"image": "a.png", "caption": "x"}\n' + line)
    with pytest.raises(DataError, match=says) as caught:
        pair_sources.jsonl((str(path),))
    assert f"{path}:2" in str(caught.value)


def test_a_picture_in_two_lines_is_refused(tmp_path):
    path = write_jsonl(tmp_path / "x.jsonl", [{"image": "a.png", "caption": "x"}, {"image": "./a.png", "caption": "y"}])
    with pytest.raises(DataError, match="in two lines"):
        pair_sources.jsonl((str(path),))


def test_members_of_a_tar_that_share_a_key_are_one_pair(tmp_path):
    described = {"caption": "said", "captions": ["more", "said"], "label": "dog", "group": "g", "width": 6}
    members = [
        ("./a/x.y.png", png(9)),  # its suffix is .y.png: no picture that is read
        ("a/000.png", png(0)),
        ("a/000.txt", b"one line\n\n another \r\n"),
        ("b/000.JPG", encoded(Image.fromarray(noise(1, 6, 6)), "JPEG")),
        ("a/000.cls", b"4\n"),
        ("b/000.json", json.dumps(described).encode()),
        ("b/000.txt", b"said"),
        ("c.webp", png(2)),
        ("d.txt", b"no picture"),
        ("e.png", png(3)),
        ("e.jpg", png(3)),
        (".hidden.png", b""),
    ]
    path = write_tar(tmp_path / "s-0.tar", members)
    with tarfile.open(path, "a") as opened:
        link = tarfile.TarInfo("f.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        opened.addfile(link)
    other = write_tar(tmp_path / "s-1.tar", [("a/000.png", png(5)), ("a/000.txt", b"again")])
    source = pair_sources.tar((str(tmp_path),))
    keys = ["a/000", "b/000", "c", "d", "e"]
    assert source.names == [*(f"{path.name}:{key}" for key in keys), f"{other.name}:a/000"] and source.passed_over == 3
    assert source.groups == [source.names[0], "g", *source.names[2:]]
    found = list(source.read(range(6)))
    assert [(pair.captions, pair.label) for pair in found[:2]] == [
        (("one line", "another"), 4),
        (("said", "more"), "dog"),
    ]
    assert found[0].empty == 1 and (decode(found[0].content, 0, 0, 100) == noise(0, 6, 6)).all()
    assert why(found[2]) == "it has no caption"
    assert "0 members are pictures" in why(found[3]) and "2 members are pictures" in why(found[4])
    (last,) = source.read([5])
    assert last.captions == ("again",) and (decode(last.content, 0, 0, 100) == noise(5, 6, 6)).all()


def test_members_that_cannot_be_used_make_a_bad_picture(tmp_path):
    cases = (("json", b"{", "is not JSON"), ("json", b"[]", "holds no object"), ("txt", b"\xff", "not valid UTF-8"))
    for suffix, content, says in (*cases, ("cls", b"dog", "no integer")):
        path = write_tar(tmp_path / "x.tar", [("0.png", png(0)), (f"0.{suffix}", content)])
        (pair,) = pair_sources.tar((str(path),)).read([0])
        assert says in why(pair)


def test_compressed_and_damaged_shards_are_named(tmp_path):
    members = [
        (f"{number}.{kind}", png(number) if kind == "png" else b"x") for number in range(3) for kind in ("png", "txt")
    ]
    intact = write_tar(tmp_path / "x.tar", members).read_bytes()
    end = intact.rindex(b"2.txt") + 1024  # behind the last member, before the zeros
    damaged = bytearray(intact)
    damaged[intact.index(b"1.png") + 148] ^= 1  # a header's checksum
    for content, says in (
        (gzip.compress(intact), "as gzip does"),
        (b"\x28\xb5\x2f\xfd" + intact, "as zstd does"),
        (intact[:end], "neither a member nor the block of zeros"),
        (intact[: end - 300], "x.tar"),
        (intact[: len(intact) // 4], "x.tar"),
        (bytes(damaged), "neither a member nor the block of zeros"),
        (b"no tar at all" * 100, "x.tar"),
        (b"", "x.tar"),
    ):
        (tmp_path / "x.tar").write_bytes(content)
        with pytest.raises(DataError, match=says) as caught:
            pair_sources.tar((str(tmp_path / "x.tar"),))
        assert "x.tar" in str(caught.value) and caught.value.do
    write_tar(tmp_path / "x.tar", [("a.png", b"x"), ("a.PNG", b"y")])
    with pytest.raises(DataError, match="two members are named a.PNG"):
        pair_sources.tar((str(tmp_path / "x.tar"),))


def test_records_with_captions_under_any_of_the_keys(tmp_path):
    def example(image, **more):
        made = example_class()()
        made.features.feature["image/encoded"].bytes_list.value.append(image)
        for name, values in more.items():
            kind = "int64_list" if isinstance(values[0], int) else "bytes_list"
            getattr(made.features.feature[name], kind).value.extend(values)
        return made.SerializeToString()

    grouped = [
        example(png(0), caption=[b"one", b"two"], label=[5], group=[b"g"]),
        example(png(1), captions=[b"three"], text=[b" ", b"four"], group=[8]),
        example(png(2), caption=[b"\xff"]),
        example(b"broken", caption=[b"five"]),
        b"\xffodd",
    ]
    path = write_records(tmp_path / "a.array_record", grouped)
    plain = write_records(tmp_path / "b.array_record", [example(png(4), text=[b"six"]), example(png(5))])
    source = pair_sources.array_record((str(path), str(plain)))
    names = [*(f"{path.name}:{number}" for number in range(5)), *(f"{plain.name}:{number}" for number in range(2))]
    assert source.names == names and source.groups == ["g", "8", *names[2:]]
    found = list(source.read(range(7)))
    assert [(pair.captions, pair.label, pair.empty) for pair in found[:2]] == [
        (("one", "two"), 5, 0),
        (("three", "four"), None, 1),
    ]
    assert "a caption is a bytes" in why(found[2]) and found[3].content == b"broken"
    assert "no tf.train.Example" in why(found[4]) and found[5].captions == ("six",)
    assert why(found[6]) == "it has no caption"
    write_records(path, [png(0)])
    with pytest.raises(DataError, match="no tf.train.Example"):
        pair_sources.array_record((str(path),))


def test_shapes_tell_what_is_drawn():
    source = pair_sources.generated(3, 40, 16)
    for number, (name, pair) in enumerate(all_of(source).items()):
        image, facts = shapes.told(3, number, 16)
        assert name == f"shapes/3:{number}" and (pair.content == image).all()
        assert pair.captions == facts.captions() and source.classes[pair.label] == facts.shape
        assert np.array_equal(image, shapes.picture(3, number, 16)[0])
