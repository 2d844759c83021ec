"""Prepared text: made once, reused only when whole and meant, and every difference named."""

import dataclasses
import hashlib
import json

import numpy as np
import pytest

from pretrainx.core.errors import ConfigError, DataError
from pretrainx.core.records import TextRows
from pretrainx.data import text as text_module
from pretrainx.data.prepared import open_prepared
from pretrainx.data.text import TextConfig, prepare
from pretrainx.data.tokenizer import Tokenizer


def quiet(_):
    """A log that nobody reads."""


@pytest.fixture
def corpus(tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    for index in range(20):
        # A word of its own in each, so that a tokenizer shows which documents it was trained on.
        own = chr(ord("a") + index) * 9
        (folder / f"{index:02}.txt").write_text(f"document {index} says hello {own} {own}\n" * 3)
    (folder / "empty.txt").write_text("")
    return TextConfig(source="text", paths=(str(folder),), vocab_size=270, held_out=0.2, length=8)


def test_every_document_is_in_one_split_whole_and_ended(corpus, tmp_path):
    lines = []
    prepared = prepare(corpus, tmp_path / "data", log=lines.append)
    assert lines and all(line.startswith("data: ") for line in lines)
    texts = {}
    for split in ("train", "held_out"):
        tokens = prepared.tokens(split)
        assert tokens.dtype == np.uint16 and tokens[-1] == 1
        ends = np.flatnonzero(tokens == 1)
        texts[split] = [prepared.tokenizer.decode(part) for part in np.split(tokens, ends + 1)[:-1]]
        counts = prepared.meta["splits"][split]
        assert counts["documents"] == len(texts[split]) and counts["tokens"] == len(tokens)
        assert counts["bytes"] == sum(len(text) for text in texts[split])
        assert counts["bytes"] == prepared.tokenizer.bytes_per_token[np.asarray(tokens)].sum()
        assert counts["digest"] == hashlib.sha256((tmp_path / "data" / f"{split}.bin").read_bytes()).hexdigest()
    assert sorted(texts["train"] + texts["held_out"]) == sorted(
        path.read_text() for path in (tmp_path / "corpus").iterdir() if path.name != "empty.txt"
    )
    # The held-out text chose no merges: training on the training texts alone gives this tokenizer.
    assert Tokenizer.train(texts["train"], 270).digest == prepared.tokenizer.digest == prepared.meta["tokenizer"]


def test_the_split_depends_on_the_name_alone(corpus, tmp_path):
    def held_out(directory):
        prepared = prepare(corpus, tmp_path / directory, quiet)
        return set(prepared.tokenizer.decode(prepared.tokens("held_out")).splitlines())

    before = held_out("before")
    for index in range(20, 40):
        (tmp_path / "corpus" / f"{index}.txt").write_text(f"document {index}\n")
    after = held_out("after")
    assert before <= after and {line for line in after if "says" in line} == before


def test_prepared_again_it_is_opened_not_made(corpus, tmp_path, monkeypatch):
    first = prepare(corpus, tmp_path / "data", quiet)
    monkeypatch.setattr(text_module, "_make", lambda *_: pytest.fail("made again"))
    # Neither the length nor the cache is part of the preparation.
    again = prepare(dataclasses.replace(corpus, length=99, cache="x"), tmp_path / "data", quiet)
    assert again.meta == first.meta and again == first
    assert open_prepared(tmp_path / "data") == first


def test_prepared_twice_it_is_the_same_bytes(corpus, tmp_path):
    for name in ("one", "two"):
        prepare(corpus, tmp_path / name, quiet)
    for path in sorted((tmp_path / "one").iterdir()):
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"corpus", "one", "two"}


def test_another_configuration_is_refused_by_field_and_values(corpus, tmp_path):
    prepare(corpus, tmp_path / "data", quiet)
    for change in ({"vocab_size": 280}, {"held_out": 0.3}, {"paths": ("elsewhere",)}, {"tokenizer": "bytes"}):
        with pytest.raises(DataError) as caught:
            prepare(dataclasses.replace(corpus, **change), tmp_path / "data", quiet)
        (name, value), message = *change.items(), str(caught.value)
        assert f"config.data.{name}" in message and str(tmp_path / "data") in message
        assert repr(list(value) if name == "paths" else value) in message


@pytest.mark.parametrize("name", ["train.bin", "held_out.bin", "tokenizer.json", "data.json"])
def test_a_damaged_or_missing_file_is_named(corpus, tmp_path, name):
    prepare(corpus, tmp_path / "data", quiet)
    path = tmp_path / "data" / name
    intact = path.read_bytes()
    for position in (0, len(intact) // 2, len(intact) - 2):
        path.write_bytes(intact[:position] + bytes([intact[position] ^ 1]) + intact[position + 1 :])
        with pytest.raises(DataError) as caught:
            prepare(corpus, tmp_path / "data", quiet)
        assert str(path) in str(caught.value) and caught.value.do
    path.write_bytes(intact[:-4])
    with pytest.raises(DataError, match=name):
        prepare(corpus, tmp_path / "data", quiet)
    path.unlink()
    with pytest.raises(DataError, match=name):
        prepare(corpus, tmp_path / "data", quiet)


def test_another_intact_tokenizer_is_not_taken_for_the_prepared_one(corpus, tmp_path):
    prepare(corpus, tmp_path / "data", quiet)
    Tokenizer.of_bytes().save(tmp_path / "data" / "tokenizer.json")
    with pytest.raises(DataError, match="tokenizer.json"):
        prepare(corpus, tmp_path / "data", quiet)


def test_an_interrupted_preparation_never_looks_complete(corpus, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(text_module, "write_description", stop)
    with pytest.raises(KeyboardInterrupt):
        prepare(corpus, tmp_path / "data", quiet)
    assert {path.name for path in tmp_path.iterdir()} == {"corpus"}
    monkeypatch.undo()
    # What kill -9 leaves is beside, not at, the directory; it is reported and does not disturb.
    leftover = tmp_path / ".data.preparing-0"
    leftover.mkdir()
    (leftover / "train.bin").write_bytes(b"half")
    lines = []
    prepare(corpus, tmp_path / "data", lines.append)
    assert any(str(leftover) in line for line in lines)


def test_the_loser_of_two_preparations_uses_the_winner_s(corpus, tmp_path, monkeypatch):
    make = text_module._make

    def overtaken(config, work, log):
        make(config, work, log)
        monkeypatch.setattr(text_module, "_make", make)
        prepare(config, tmp_path / "data", quiet)

    monkeypatch.setattr(text_module, "_make", overtaken)
    assert prepare(corpus, tmp_path / "data", quiet) == open_prepared(tmp_path / "data")
    assert {path.name for path in tmp_path.iterdir()} == {"corpus", "data"}


def test_a_foreign_directory_is_left_alone(corpus, tmp_path):
    (tmp_path / "data").mkdir()
    prepare(corpus, tmp_path / "data", quiet)  # an empty one is taken
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("mine")
    with pytest.raises(DataError, match="does not hold prepared text"):
        prepare(corpus, tmp_path / "home", quiet)
    assert (tmp_path / "home" / "thesis.tex").read_text() == "mine"


def test_a_single_document_is_cut(tmp_path):
    path = tmp_path / "one.txt"
    path.write_text("0123456789" * 10)
    config = TextConfig(source="text", paths=(str(path),), tokenizer="bytes", held_out=0.25)
    prepared = prepare(config, tmp_path / "data", quiet)
    assert prepared.tokenizer.decode(prepared.tokens("train")) == ("0123456789" * 10)[:75]
    assert prepared.tokenizer.decode(prepared.tokens("held_out")) == ("0123456789" * 10)[75:]
    with pytest.raises(DataError, match="one.txt"):
        prepare(dataclasses.replace(config, held_out=0.0), tmp_path / "none", quiet)


def test_splits_without_documents_and_empty_corpora_are_refused_with_a_way_out(corpus, tmp_path):
    with pytest.raises(DataError, match="no document is held out") as caught:
        prepare(dataclasses.replace(corpus, held_out=0.0001), tmp_path / "data", quiet)
    # The advice is true.
    advised = float(caught.value.do.split("held_out to ")[1].split()[0])
    assert prepare(dataclasses.replace(corpus, held_out=advised), tmp_path / "data", quiet)
    empty = tmp_path / "corpus" / "empty.txt"
    with pytest.raises(DataError, match="corpus is empty"):
        prepare(dataclasses.replace(corpus, paths=(str(empty),)), tmp_path / "none", quiet)
    with pytest.raises(ConfigError, match="did you mean 'bytes'"):
        prepare(dataclasses.replace(corpus, tokenizer="byte"), tmp_path / "none", quiet)


def test_a_source_that_grows_while_it_is_read_is_refused(corpus, tmp_path, monkeypatch):
    train = Tokenizer.train

    def grow(documents, *sizes):
        (tmp_path / "corpus" / "00.txt").write_text("more and more\n" * 20)
        return train(documents, *sizes)

    monkeypatch.setattr(Tokenizer, "train", grow)
    with pytest.raises(DataError, match="changed while it was read"):
        prepare(corpus, tmp_path / "data", quiet)


def test_a_tokenizer_from_a_file_must_stay_what_it_was(corpus, tmp_path):
    path = tmp_path / "mine.json"
    Tokenizer.of_bytes().save(path)
    config = dataclasses.replace(corpus, tokenizer=str(path))
    assert prepare(config, tmp_path / "data", quiet).vocabulary.size == 258
    Tokenizer.train(["hello hello"], 259).save(path)
    with pytest.raises(DataError, match="mine.json"):
        prepare(config, tmp_path / "data", quiet)


def test_the_fingerprint_names_all_that_decides_the_rows(corpus, tmp_path):
    prepared = prepare(corpus, tmp_path / "data", quiet)
    fingerprint = prepared.fingerprint(seed=3, batch_size=4, reads=TextRows(9, 1))
    assert json.loads(json.dumps(fingerprint)) == fingerprint
    source = fingerprint["sources"][0]
    assert source["digest"] == prepared.meta["splits"]["train"]["digest"]
    assert source["records"] == prepared.meta["splits"]["train"]["documents"]
    assert source["rows"] == (len(prepared.tokens("train")) - 1) // 8
    others = {"weights", "seed", "batch_size", "length", "packing", "transforms", "tokenizer", "vocab_size"}
    assert set(fingerprint) == {"sources", *others}
    assert str(tmp_path) not in json.dumps(fingerprint)
    for change in ({"seed": 4}, {"batch_size": 5}, {"reads": TextRows(10, 1)}, {"reads": TextRows(8)}):
        assert prepared.fingerprint(**{"seed": 3, "batch_size": 4, "reads": TextRows(9, 1), **change}) != fingerprint
    (tmp_path / "corpus" / "00.txt").write_text("another text")
    (tmp_path / "corpus" / "01.txt").write_text("another text")
    assert prepare(corpus, tmp_path / "other", quiet).fingerprint(3, 4, TextRows(9, 1)) != fingerprint
