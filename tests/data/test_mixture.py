"""Weighted mixtures: rows by step from any start, counts that match the weights, one tokenizer, no leak between parts."""

import dataclasses
import json

import numpy as np
import pytest

from pretrainx.core.errors import ConfigError, DataError
from pretrainx.core.records import TextRows
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.data.corpus import Corpus, Part, weighted_texts
from pretrainx.data.fields import Marks
from pretrainx.data.prepared import open_prepared
from pretrainx.data.rows import MixedRows, TrainingRows
from pretrainx.data.stream import TokenRows
from pretrainx.data.text import MixtureConfig, prepare
from pretrainx.data.tokenizer import Tokenizer
from pretrainx.runs.parts import build
from pretrainx.runs.recipe import parse
from toys.seeking import check_late_steps

VOCABULARY = Vocabulary(60_000, (("pad", 0), ("eos", 1)))
MARKS = Marks(0, 1, np.zeros(1, bool), np.zeros(1, bool))
READS = TextRows(17, 1)


def quiet(_):
    """A log that nobody reads."""


def mixed(counts=(50, 7, 200), weights=(0.5, 0.3, 0.2), length=4):
    """Parts whose tokens say where they come from: part p has ids from 10000 p + 2."""
    reads = TextRows(length + 1, 1)
    parts = [
        (f"p{p}", TokenRows((np.arange(count * length + 1) + 10_000 * p + 2).astype(np.uint16), reads, MARKS))
        for p, count in enumerate(counts)
    ]
    return MixedRows(parts, weights)


def test_realised_counts_are_the_weights_in_every_window():
    rows = mixed()
    training = TrainingRows(rows, 10, 3, VOCABULARY)
    numbers = np.concatenate([training.numbers(step) for step in range(100)])
    parts = rows.part_of(numbers)
    assert np.bincount(parts).tolist() == [500, 300, 200]
    for first in range(0, 1000, 50):
        window = np.bincount(parts[first : first + 50], minlength=3)
        assert np.abs(window - [25, 15, 10]).max() <= 1
    # Each part is read whole before any of its rows comes again.
    for part, count in enumerate((50, 7, 200)):
        own = numbers[parts == part]
        for epoch in np.split(own, range(count, len(own), count)):
            assert len(set(epoch)) == len(epoch)


def test_any_step_in_any_order_gives_the_same_batches():
    forwards, backwards = (TrainingRows(mixed(), 6, 2, VOCABULARY) for _ in range(2))
    expected = [forwards.batch(step)["tokens"] for step in range(60)]
    for step in range(59, -1, -1):
        assert (backwards.batch(step)["tokens"] == expected[step]).all()
    assert forwards.record_hash(41) == TrainingRows(mixed(), 6, 2, VOCABULARY).record_hash(41)
    assert forwards.record_hash(41) != TrainingRows(mixed(), 6, 3, VOCABULARY).record_hash(41)
    # Larger batches are the same rows.
    larger = TrainingRows(mixed(), 12, 2, VOCABULARY)
    assert (larger.batch(7)["tokens"] == np.concatenate(expected[14:16])).all()


def test_a_batch_holds_the_rows_it_names():
    rows = mixed()
    training = TrainingRows(rows, 8, 0, VOCABULARY)
    for row, number in zip(training.batch(5)["tokens"], training.numbers(5), strict=True):
        part = int(rows.part_of(np.array([number]))[0])
        assert (row // 10_000 == part).all() and (row == rows[int(number)]["tokens"]).all()
        assert row[0] == 10_000 * part + 2 + 4 * (number - (0, 50, 57)[part])
    with pytest.raises(IndexError):
        rows.rows([len(rows)])


def test_equal_parts_go_through_different_permutations():
    rows = mixed((40, 40), (1, 1))
    numbers = TrainingRows(rows, 80, 0, VOCABULARY).numbers(0)
    first, second = numbers[numbers < 40], numbers[numbers >= 40] - 40
    assert sorted(first) == sorted(second) == list(range(40)) and first.tolist() != second.tolist()


def test_a_late_step_costs_what_the_first_costs():
    training = TrainingRows(mixed((4000, 9000), (0.7, 0.3)), 32, 0, VOCABULARY)
    check_late_steps(training)


@pytest.fixture
def config(tmp_path):
    rng = np.random.default_rng(0)
    for name, letters, count in (("vowels", "aeiou", 30), ("others", "bcdfg", 30)):
        (tmp_path / name).mkdir()
        for index in range(count):
            words = ["".join(rng.choice(list(letters), 6)) for _ in range(40 if name == "vowels" else 160)]
            (tmp_path / name / f"{name}{index}.txt").write_text(" ".join(words))
    part = lambda name, weight: Part(name, weight, "text", (str(tmp_path / name),))
    return MixtureConfig(parts=(part("vowels", 3.0), part("others", 1.0)), vocab_size=300, held_out=0.2, length=16)


@pytest.mark.parametrize("packing", ["stream", "documents"])
def test_prepared_mixture(config, tmp_path, packing):
    config = dataclasses.replace(config, packing=packing)
    text = prepare(config, tmp_path / "data", quiet)
    assert text.names == ("vowels", "others") and text.weights == (3.0, 1.0)
    reads = TextRows(17, 1, ("segments",) if packing == "documents" else ())
    training = text.training_rows(reads, 8, 5)
    decoded = [text.tokenizer.decode(row) for step in range(50) for row in training.batch(step)["tokens"]]
    vowels = sum(bool(set("aeiou") & set(row)) for row in decoded)
    epochs = text.epochs(400, reads)
    assert [epochs[name] * len(text.rows("train", name, reads)) for name in text.names] == pytest.approx([300, 100])
    assert vowels == 300 and not any(set("aeiou") & set(row) and set("bcdfg") & set(row) for row in decoded)
    total = text.meta["splits"]["train"]
    assert total["tokens"] == sum(text.split("train", name)["tokens"] for name in text.names)
    assert len(text.tokens("held_out")) == text.meta["splits"]["held_out"]["tokens"]
    fingerprint = text.fingerprint(5, 8, reads)
    assert json.loads(json.dumps(fingerprint)) == fingerprint and fingerprint["weights"] == [0.75, 0.25]
    assert [source["name"] for source in fingerprint["sources"]] == ["vowels", "others"]
    assert all(source["digest"] != fingerprint["sources"][0]["digest"] for source in fingerprint["sources"][1:])
    assert prepare(config, tmp_path / "data", quiet) == text
    for name in text.names:
        batches = list(text.held_out(name, reads).batches(4))
        assert all(("segments" in batch) == (packing == "documents") for batch in batches)
    (tmp_path / "data" / "others" / "train.bin").write_bytes(b"x")
    with pytest.raises(DataError, match="others/train.bin"):
        open_prepared(tmp_path / "data")


def test_other_weights_are_other_data(config, tmp_path):
    """A trained tokenizer depends on the weights; with bytes the preparation serves them all, the fingerprint tells."""
    prepare(config, tmp_path / "bpe", quiet)
    other = (config.parts[0], dataclasses.replace(config.parts[1], weight=2.0))
    with pytest.raises(DataError, match=r"config.data.parts\[1\].weight"):
        prepare(dataclasses.replace(config, parts=other), tmp_path / "bpe", quiet)
    plain = dataclasses.replace(config, tokenizer="bytes")
    one = prepare(plain, tmp_path / "bytes", quiet)
    two = prepare(dataclasses.replace(plain, parts=other), tmp_path / "bytes", quiet)
    assert one.fingerprint(0, 8, READS) != two.fingerprint(0, 8, READS) and one.meta == two.meta
    with pytest.raises(ValueError, match="2 parts need as many weights"):
        open_prepared(tmp_path / "bytes").training_rows(READS, 8, 0)


def test_the_tokenizer_is_trained_on_the_weighted_training_text(config, tmp_path):
    corpora = [Corpus(part, config.held_out) for part in config.parts]
    texts = list(weighted_texts(corpora))
    size = lambda letters: sum(len(text) for text in texts if set(letters) & set(text))
    assert size("aeiou") / size("bcdfg") == pytest.approx(3.0, rel=0.15)
    assert prepare(config, tmp_path / "data", quiet).tokenizer.digest == Tokenizer.train(texts, 300).digest
    held_out = {piece.text for corpus in corpora for split, piece in corpus.pieces() if split == "held_out"}
    assert held_out and not held_out & set(texts)
    single = [corpora[1]]
    assert list(weighted_texts(single)) == list(corpora[1].training_texts())


def test_parts_that_cannot_be_meant_are_refused(config):
    part = config.parts[0]
    for parts, says in (
        ((), "no parts"),
        ((part, part), "same name"),
        ((dataclasses.replace(part, name="../x"),), "cannot be named"),
        ((dataclasses.replace(part, name=""),), "cannot be named"),
    ):
        with pytest.raises(ConfigError, match=says):
            MixtureConfig(parts=parts)
    values = {"train": {"steps": 5, "batch_size": 2}, "schedule": {"warmup": 1}}
    data = {"name": "mixture", "parts": [{"name": "a", "weight": 0, "sorce": "text"}]}
    with pytest.raises(ConfigError) as caught:
        parse(values | {"data": data})
    assert "config.data.parts[0].weight" in str(caught.value) and "did you mean 'source'" in str(caught.value)
    data = {"name": "mixture", "parts": [{"name": "a"}, {"name": "b", "source": "text", "paths": ["x"]}]}
    assert [part.source for part in parse(values | {"data": data}).data.parts] == ["stdlib", "text"]


def test_rows_say_which_part_they_are_from(tmp_path):
    """Of several prompts each row is given that of its part, in training and in what is held out."""
    for name, text in (("a", "the cat sat on the mat. "), ("b", "0123 4567 89 ")):
        (tmp_path / name).mkdir()
        for number in range(30):
            (tmp_path / name / f"{number}.txt").write_text(text * (10 + number))
    parts = [{"name": name, "source": "text", "paths": (str(tmp_path / name / "*.txt"),)} for name in ("a", "b")]
    data = {"name": "mixture", "parts": parts, "vocab_size": 270, "length": 16, "held_out": 0.3}
    values = {"data": data, "train": {"steps": 1, "batch_size": 8}, "schedule": {"warmup": 0}}
    values["adapt"] = {"name": "prompt", "length": 4, "tasks": 2}
    recipe = parse(values | {"model": {"width": 16, "depth": 1, "heads": 2, "max_length": 20}})
    text = prepare(recipe.data, tmp_path / "data", quiet)
    reads = build(recipe, text.about).reads
    batch = text.training_rows(reads, 8, 0).batch(3)
    digits = np.array(
        ["0" in text.tokenizer.decode(row) or "5" in text.tokenizer.decode(row) for row in batch["tokens"]]
    )
    assert batch["task"].tolist() == digits.astype(int).tolist() and 0 < digits.sum() < 8
    held_out = next(iter(text.held_out("b", reads).batches(8)))
    assert (held_out["task"][held_out["valid"]] == 1).all()
    with pytest.raises(ConfigError, match="a prompt of its own"):
        parse(values | {"adapt": {"name": "prompt", "tasks": 3}})
