"""Verification counts again what data.json says; digests that fit do not hide content that does not."""

import hashlib
import json

import numpy as np
import pytest

from pretrainx.core.errors import DataError
from pretrainx.data.corpus import Part
from pretrainx.data.directory import DESCRIPTION, write_description
from pretrainx.data.text import MixtureConfig, TextConfig, prepare
from pretrainx.data.verify import verify


def quiet(_):
    """A log that nobody reads."""


PACKINGS = [("stream", 0), ("documents", 0), ("documents", 16), ("single", 0)]


@pytest.fixture(params=PACKINGS, ids=["stream", "documents", "documents-16", "single"])
def text(request, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for index in range(30):
            (tmp_path / name / f"{name}{index}.txt").write_text(f"{name} {index} " * (index + 1))
    parts = tuple(Part(name, 1.0, "text", (str(tmp_path / name),)) for name in ("a", "b"))
    packing, width = request.param
    config = MixtureConfig(parts=parts, tokenizer="bytes", held_out=0.3, length=16, packing=packing, width=width)
    return prepare(config, tmp_path / "data", quiet)


def rewrite(text, path, content, **facts):
    """Changes a file of part b's training split, and data.json so that every digest fits again."""
    path.write_bytes(content)
    meta = json.loads((text.directory / DESCRIPTION).read_text())
    meta.pop("digest")
    split = meta["parts"][1]["splits"]["train"]
    kind = "_".join([*path.name.split(".")[1:-1], "digest"])  # train.bin, train.rows.bin, ...
    split |= {kind: hashlib.sha256(content).hexdigest(), **facts}
    write_description(text.directory, meta)


def test_whole_data_are_described(text):
    lines = verify(text.directory)
    assert [line.partition(":")[0] for line in lines] == ["a train", "a held_out", "b train", "b held_out"]
    for line, (part, split) in zip(lines, [(p, s) for p in "ab" for s in ("train", "held_out")], strict=True):
        facts = text.split(split, part)
        assert f"{facts['documents']} documents" in line and f"{facts['tokens']:,} tokens" in line
        assert ("rows" in line) == text.segmented


def test_ids_and_counts_are_looked_at(text):
    path = text.directory / "b" / "train.bin"
    intact = np.fromfile(path, np.uint16)
    foreign, shorter, fewer = intact.copy(), intact[:-5], intact.copy()
    foreign[7] = 258
    fewer[np.flatnonzero(fewer == 1)[0]] = 0
    for changed, says in (
        (foreign, "outside the vocabulary"),
        (shorter, "tokens, data.json"),
        (fewer, "documents, data"),
    ):
        rewrite(text, path, changed.tobytes())
        with pytest.raises(DataError, match=says) as caught:
            verify(text.directory)
        assert str(path) in str(caught.value)
    rewrite(text, path, intact.tobytes())
    assert verify(text.directory)
    path.write_bytes(foreign.tobytes())
    with pytest.raises(DataError, match="b/train.bin"):
        verify(text.directory)


@pytest.mark.parametrize("fault", ["repeated", "left out", "too long", "beyond", "row without a piece"])
def test_rows_that_miss_or_repeat_a_target_are_found(text, fault):
    if not text.segmented:
        assert not (text.directory / "b" / "train.rows.bin").exists()
        return
    stem = text.directory / "b"
    borders = np.fromfile(stem / "train.rows.bin", "<i8")
    pieces = np.fromfile(stem / "train.pieces.bin", "<i8").reshape(-1, 2)
    if fault == "row without a piece":
        borders[1] = 0
        rewrite(text, stem / "train.rows.bin", borders.tobytes())
    else:
        if fault == "repeated":
            pieces[3] = pieces[2]
        elif fault == "left out":
            pieces[3] += [1, -1]
        elif fault == "too long":
            pieces[np.argmax(pieces[:, 1]), 1] += 1
        else:
            pieces[np.argmax(pieces[:, 0])] += [1, 0]
        rewrite(text, stem / "train.pieces.bin", pieces.tobytes())
    with pytest.raises(DataError, match=r"b/train\.(rows|pieces)\.bin"):
        verify(text.directory)


def test_documents_that_end_elsewhere_are_found(text):
    path = text.directory / "b" / "train.documents.bin"
    if text.meta["packing"] != "single":
        assert not path.exists()
        return
    borders = np.fromfile(path, "<i8")
    borders[3] += 1
    rewrite(text, path, borders.tobytes())
    with pytest.raises(DataError, match=r"b/train.documents.bin"):
        verify(text.directory)


def test_data_of_another_format_are_refused_kindly(tmp_path):
    (tmp_path / "one.txt").write_text("0123456789" * 10)
    config = TextConfig(source="text", paths=(str(tmp_path / "one.txt"),), tokenizer="bytes", held_out=0.25, length=4)
    prepare(config, tmp_path / "data", quiet)
    meta = json.loads((tmp_path / "data" / DESCRIPTION).read_text()) | {"format": 1}
    meta.pop("digest")
    write_description(tmp_path / "data", meta)
    for refuse in (lambda: verify(tmp_path / "data"), lambda: prepare(config, tmp_path / "data", quiet)):
        with pytest.raises(DataError, match="version 1, this program reads 2") as caught:
            refuse()
        assert "prepared anew" in caught.value.do
