"""Sets of pictures with captions, fetched from miniature archives: several archives, links, names and keywords, SVG titles."""

import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from pretrainx.core.errors import ConfigError, DataError
from pretrainx.data import fetch, pair_sources, svg_metadata
from pretrainx.data.archives import extract
from pretrainx.data.decoding import decode
from pretrainx.data.manifest import ENTRIES, Archive
from toys.archives import entry, make
from toys.pictures import encoded, noise


def quiet(_):
    """A log that nobody reads."""


def png(seed):
    return encoded(Image.fromarray(noise(seed, 8, 8)))


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def set_of(archives, name, **changes):
    """A row of the manifest like the one of `name`, of these archives."""
    row = ENTRIES[name]
    known = entry(archives[0], name="mini", members=row.members, converter=row.converter, modality=row.modality)["mini"]
    beside = tuple(
        Archive(known.registry, each.stem, "1", entry(each)["mini"].sha256, 1, of.members)
        for each, of in zip(archives[1:], row.beside, strict=True)
    )
    values = {"beside": beside, "reads": row.reads, "source": row.source, "links": row.links}
    values |= {"counts": row.counts, "settings": row.settings}
    return {"mini": type(row)(**(vars(known) | values | changes))}


LISTED = [
    {
        "name": "FATHER CHRISTMAS",
        "unified": "1F385",
        "image": "1f385.png",
        "category": "People & Body",
        "skin_variations": {
            "1F3FB": {"image": "1f385-1f3fb.png"},
            "1F3FB-1F3FF": {"image": "1f385-1f3fb-1f3ff.png"},
            "1F3FD-1F3FD": {"image": "1f385-1f3fd-1f3fd.png"},
        },
    },
    {"name": "Keycap", "unified": "0023-FE0F-20E3", "image": "0023-fe0f-20e3.png", "category": "Symbols"},
    {"name": "TYPE-3", "unified": "1F3FC", "image": "1f3fc.png", "category": "Component"},
]
KEYWORDS = {"\U0001f385": ["father_christmas", "Santa_Claus", "festival", "festival"], "#\u20e3": ["hash", " a  b "]}
COUNTS = {"base": 3, "variants": 3, "names": 3, "categories": 3, "with_keywords": 2}


@pytest.fixture
def emoji(tmp_path):
    names = [*(each["image"] for each in LISTED), *(v["image"] for v in LISTED[0]["skin_variations"].values())]
    pictures = {f"package/img/google/64/{name}": png(number) for number, name in enumerate(names)}
    sheets = {"package/img/google/sheets/64.png": b"a sprite sheet", "package/setup.py": b"raise SystemExit"}
    listed = {"package/emoji.json": json.dumps(LISTED).encode()}
    first = make(tmp_path / "emoji.tgz", pictures | sheets | listed)
    second = make(tmp_path / "lib.tgz", {"package/dist/emoji-en-US.json": json.dumps(KEYWORDS).encode()})
    return [first, second], set_of([first, second], "emoji", counts=tuple((n, c, c) for n, c in COUNTS.items()))


def test_emoji_with_names_keywords_and_skin_tones(emoji, tmp_path):
    archives, table = emoji
    directory = fetch.fetch("mini", tmp_path / "dest", archives, quiet, table)
    lines = {line["image"]: line for line in read_lines(directory / "pairs.jsonl")}
    assert len(lines) == 6
    base = ["father christmas: santa claus, festival", "father christmas", "santa claus", "festival"]
    assert lines["images/1f385.png"] == {
        "image": "images/1f385.png",
        "captions": base,
        "label": "People & Body",
        "group": "1F385",
    }
    for image, tones in (
        ("1f385-1f3fb", ", light skin tone"),
        ("1f385-1f3fb-1f3ff", ", light skin tone, dark skin tone"),
        ("1f385-1f3fd-1f3fd", ", medium skin tone"),
    ):
        variant = lines[f"images/{image}.png"]
        assert variant["captions"] == [caption + tones for caption in base] and variant["group"] == "1F385"
    assert lines["images/0023-fe0f-20e3.png"]["captions"] == ["keycap: hash, a b", "keycap", "hash", "a b"]
    assert (lines["images/1f3fc.png"]["captions"], lines["images/1f3fc.png"]["label"]) == (["type-3"], "Component")
    # What is printed is what a run can read.
    advised = fetch.advice(table["mini"], directory)
    path = str(directory / "pairs.jsonl")
    assert "--config.data.name=pairs --config.data.source=jsonl" in advised and f"\"('{path}',)\"" in advised
    assert advised.endswith("--config.data.channels=3")
    source = pair_sources.jsonl((path,))
    for name, pair in zip(source.names, source.read(range(6)), strict=True):
        assert pair.captions == tuple(lines[name]["captions"]) and decode(pair.content, 0, 0, 100).shape == (8, 8, 3)
    assert source.groups.count("1F385") == 4 and not list(directory.rglob("64.png"))


def test_files_below_the_directory_are_digested_and_verified(emoji, tmp_path):
    archives, table = emoji
    directory, said = fetch.fetch("mini", tmp_path / "dest", archives, quiet, table), []
    meta = json.loads((directory / "MANIFEST.json").read_text())
    assert len(meta["outputs"]) == 8 and "images/1f385.png" in meta["outputs"]
    assert meta["archive"] == "emoji.tgz" and set(meta["archives_beside"]) == {"lib.tgz"}
    assert "8 files" in fetch.verify_fetched(directory, table)
    fetch.fetch("mini", tmp_path / "dest", None, said.append, table)
    assert len(said) == 1 and "there already" in said[0]
    (directory / "images" / "1f385.png").write_bytes(b"changed")
    with pytest.raises(DataError, match="images/1f385.png is not as it was written"):
        fetch.verify_fetched(directory, table)
    with pytest.raises(DataError, match="beside"):  # another version of the second archive
        row = table["mini"]
        other = {"mini": set_of([archives[0], make(tmp_path / "lib.tgz")], "emoji", counts=row.counts)["mini"]}
        fetch.fetch("mini", tmp_path / "dest", None, quiet, other)


def test_every_archive_is_named_and_checked(emoji, tmp_path):
    archives, table = emoji
    for given, kind, says in (
        (archives[0], ConfigError, "made from 2 archives"),
        ([*archives, archives[0]], ConfigError, "npm mini-data 1.0, npm lib 1"),
        (archives[::-1], DataError, "is not the one that is known"),
        ([archives[0], tmp_path / "nothing.tgz"], DataError, "no such archive"),
    ):
        with pytest.raises(kind, match=says):
            fetch.fetch("mini", tmp_path / "dest", given, quiet, table)
    assert list((tmp_path / "dest").iterdir()) == []


def test_each_archive_is_downloaded_by_its_client(emoji, tmp_path, monkeypatch):
    archives, table = emoji
    bin, said = tmp_path / "bin", []
    bin.mkdir()
    (bin / "npm").write_text(
        '#!/bin/sh\nfor word in "$@"; do case $word in --pack-destination=*) cd "${word#*=}";; esac; done\n'
        f'case "$word" in lib@1) cp {archives[1]} .;; mini-data@1.0) cp {archives[0]} .;; esac\n'
    )
    (bin / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin}:/usr/bin:/bin")
    directory = fetch.fetch("mini", tmp_path / "dest", None, said.append, table)
    assert len(read_lines(directory / "pairs.jsonl")) == 6 and sum("npm pack" in line for line in said) == 2
    assert "npm mini-data 1.0 + npm lib 1" in fetch.table(table)[1]


def svg(title, keywords=(), description="", head="", work="cc:Work"):
    bag = "".join(f"<rdf:li>{word}</rdf:li>" for word in keywords)
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n{head}<svg xmlns:rdf="r"><metadata><rdf:RDF xmlns:rdf="r">'
        f'<{work} rdf:about=""><dc:title>{title}</dc:title><dc:description>{description}</dc:description>'
        f"<dc:subject><rdf:Bag>{bag}</rdf:Bag></dc:subject><dc:creator><cc:Agent><dc:title>somebody</dc:title></cc:Agent>"
        f"</dc:creator></{work}></rdf:RDF></metadata><title>not this</title></svg>"
    ).encode()


def test_metadata_of_a_drawing_are_read_without_the_drawing():
    bomb = '<!DOCTYPE svg [<!ENTITY a "boom"><!ENTITY b "&a;&a;"><!ENTITY c SYSTEM "file:///etc/hostname">]>'
    assert svg_metadata.read(svg(" A &amp; B ", ("x ", "", "y"), "of\ntwo", bomb)) == ("A & B", ("x", "y"), "of\ntwo")
    assert svg_metadata.read(svg("plain", work="Work")) == ("plain", (), "")
    for title in ("&b;", "&c;", "<open"):
        assert svg_metadata.read(svg(title, head=bomb)) is None, "nothing is expanded, nothing is opened"
    inside = svg("x").replace(b'<rdf:RDF xmlns:rdf="r">', b'<rdf:RDF xmlns:rdf="r">' + bomb.encode())
    assert svg_metadata.read(inside) is None and svg_metadata.read(b"<svg/>") is None
    latin = svg("caf\u00e9").decode().replace("UTF-8", "ISO-8859-1").encode("latin-1")
    assert svg_metadata.read(latin).title == "caf\u00e9" and svg_metadata.read(svg("caf\u00e9")).title == "caf\u00e9"
    assert svg_metadata.read(svg("x").replace(b"UTF-8", b"odd-9")) is None


def deb_of(path, files, links):
    """A package of files and symbolic links {name: target}."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as opened:
        for name, content in files.items():
            item = tarfile.TarInfo(f"./{name}")
            item.size = len(content)
            opened.addfile(item, io.BytesIO(content))
        for name, target in links.items():
            item = tarfile.TarInfo(f"./{name}")
            item.type, item.linkname = tarfile.SYMTYPE, target
            opened.addfile(item)
    content = stream.getvalue()
    head = f"{'data.tar':<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode()
    path.write_bytes(b"!<arch>\n" + head + content)
    return path


def test_openclipart_titles_come_from_the_drawing_of_the_same_path(tmp_path):
    root = "usr/share/openclipart"
    drawings = {
        "animals/cats/cat": svg(
            "Cat_on a  Mat", ("Animal", "hash", "0x93148a4", "unsorted", "mat"), "It sits.\nStill."
        ),
        "animals/dog": svg("Dog"),
        "food/dog": svg("dog", ("dog", "sausage"), "dog"),
        "food/untitled": svg(" "),
        **{f"icons/{number}": svg("series") for number in range(4)},
        "vector/only": svg("no picture"),
    }
    pictures = {name: png(number) for number, name in enumerate(drawings) if name != "vector/only"} | {
        "food/bare": png(99)
    }
    deb = lambda kind, files: deb_of(
        tmp_path / f"openclipart-{kind}.deb",
        {f"{root}/{kind}/{name}.{kind}": content for name, content in files.items()},
        {f"{root}/{kind}/food/second.{kind}": f"dog.{kind}"},
    )
    archives = [deb("png", pictures), deb("svg", drawings)]
    counts = {"pictures": 9, "titled": 7, "pairs": 3, "folders": 3}
    table = set_of(archives, "openclipart", counts=tuple((name, count, count) for name, count in counts.items()))
    directory = fetch.fetch("mini", tmp_path / "dest", archives, quiet, table)
    lines = read_lines(directory / "pairs.jsonl")
    assert lines == [
        {
            "image": "images/animals/cats/cat.png",
            "captions": ["cat on a mat: animal, mat", "cat on a mat", "It sits. Still."],
            "label": "animals",
            "group": "cat on a mat",
        },
        {"image": "images/animals/dog.png", "captions": ["dog"], "label": "animals", "group": "dog"},
        {"image": "images/food/dog.png", "captions": ["dog: sausage", "dog"], "label": "food", "group": "dog"},
    ]
    for line in lines:
        name = line["image"].removeprefix("images/").removesuffix(".png")
        assert (directory / line["image"]).read_bytes() == pictures[name], "as they are"
    assert len(list(directory.rglob("*.png"))) == 3
    # Links are second names of pictures that are there; in sets that do not say so they are refused.
    with pytest.raises(DataError, match="no regular file"):
        extract(archives[0], table["mini"].members, tmp_path / "into")
    assert len(extract(archives[0], table["mini"].members, tmp_path / "into", links=True)) == 9


def test_what_lies_behind_transparent_pixels_does_not_show(tmp_path):
    clear = np.zeros((4, 4, 4), np.uint8)
    clear[:2] = (200, 10, 10, 255)
    found = decode(encoded(Image.fromarray(clear, "RGBA")), 0, 3, 100)
    assert (found[:2] == (200, 10, 10)).all() and (found[2:] == 255).all()
