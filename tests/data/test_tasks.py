"""Rows of a mixture of tasks: fixed shares, an order of each task's own, the same batches by step; and what stays as it was."""

import hashlib
import json

import jax
import numpy as np
import pytest
from jax.sharding import SingleDeviceSharding

from pretrainx.core.errors import ConfigError
from pretrainx.core.records import TextRows
from pretrainx.data.corpus import Part
from pretrainx.data.loader import Prefetch, place
from pretrainx.data.text import MixtureConfig, TextConfig, prepare

TASKS = (
    ("spans", 0.5, TextRows(12, 0, ("length",))),
    ("prefix", 0.25, TextRows(9, 1)),
    ("masked", 0.25, TextRows(12, 0, ("length",))),
)


def quiet(_):
    """A log that nobody reads."""


def spec_of(rows):
    """{task: {field: (shape, dtype)}} of a batch."""
    return {
        name: {key: (leaf.shape, leaf.dtype) for key, leaf in reads.spec(round(rows * share)).items()}
        for name, share, reads in TASKS
    }


def shapes(batch):
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), batch)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    for index in range(30):
        (folder / f"{index}.txt").write_text(f"a{index} {index} " * (index + 1))
    config = TextConfig(source="text", paths=(f"{folder}/*.txt",), tokenizer="bytes", held_out=0.3)
    return prepare(config, folder / "data", quiet)


def test_every_task_has_its_share_of_every_step_in_an_order_of_its_own(text):
    forwards, backwards = (text.training_rows(TASKS, 8, 3) for _ in range(2))
    expected = [forwards.batch(step) for step in range(30)]
    assert all(shapes(batch) == spec_of(8) for batch in expected)
    for step in range(29, -1, -1):
        jax.tree.map(np.testing.assert_array_equal, backwards.batch(step), expected[step])
    hashes = {forwards.record_hash(step) for step in range(30)}
    assert len(hashes) == 30 and hashes == {text.training_rows(TASKS, 8, 3).record_hash(step) for step in range(30)}
    assert forwards.record_hash(4) != text.training_rows(TASKS, 8, 4).record_hash(4)
    # Tasks that read the same rows read them in another order; none sees the numbers of another's seed.
    spans, masked = (
        np.concatenate([forwards.tasks[name].numbers(step) for step in range(200)])[:400]
        for name in ("spans", "masked")
    )
    count = len(forwards.tasks["spans"].source)
    assert sorted(spans[:count].tolist()) == sorted(masked[:count].tolist()) and spans.tolist() != masked.tolist()
    assert forwards.batch_size == 8 and forwards.first_row(5) == 40 and len(forwards.numbers(0)) == 8
    assert forwards.epoch(100) == max(rows.epoch(100) for rows in forwards.tasks.values()) > 0


def test_shares_that_are_no_whole_rows_are_refused(text):
    with pytest.raises(ConfigError, match="config.train.batch_size"):
        text.training_rows(TASKS, 6, 0)
    with pytest.raises(ConfigError, match="whole number of rows"):
        next(text.held_out("", TASKS).batches(6))


def test_held_out_tasks_go_on_until_the_longest_is_through(text):
    held_out = text.held_out("", TASKS)
    batches = list(held_out.batches(4))
    assert all(shapes(batch) == spec_of(4) for batch in batches)
    for name, _, reads in TASKS:
        alone = text.held_out("", reads)
        valid = np.concatenate([batch[name]["valid"] for batch in batches])
        rows = np.concatenate([batch[name]["tokens"] for batch in batches])[valid]
        assert valid.sum() == alone.count
        targets = np.concatenate([row[reads.overlap :] for row in rows])
        expected = np.concatenate(list(alone.targets()))
        assert targets[: len(expected)].tolist() == expected.tolist()
    longest = max(-(-text.held_out("", reads).count // round(4 * share)) for _, share, reads in TASKS)
    assert len(batches) == longest and not batches[-1]["spans"]["valid"].any()
    each = sum(len(found) for name, _, reads in TASKS for found in text.held_out("", reads).targets())
    assert sum(map(len, held_out.targets())) == each


def test_nested_batches_are_made_ahead_and_placed(text):
    rows = text.training_rows(TASKS, 8, 0)
    here = SingleDeviceSharding(jax.devices()[0])
    shardings = jax.tree.map(lambda _: here, rows.batch(0))
    prefetch = Prefetch(lambda step: place(rows.batch(step), shardings), 5)
    try:
        for step in (5, 6):
            jax.tree.map(np.testing.assert_array_equal, prefetch.next(), rows.batch(step))
    finally:
        prefetch.close()


def test_a_fingerprint_tells_tasks_and_fields_apart(text):
    fingerprint = text.fingerprint(0, 8, TASKS)
    assert json.loads(json.dumps(fingerprint)) == fingerprint and fingerprint["tokenizer"] == text.meta["tokenizer"]
    tasks = fingerprint["tasks"]
    assert set(tasks) == {"spans", "prefix", "masked"}
    assert tasks["spans"]["batch_size"] == 4 and tasks["spans"]["seed"] != tasks["masked"]["seed"]
    plain = text.fingerprint(0, 4, TextRows(12))
    assert plain["packing"] == "rows-end-to-end/1" and plain["overlap"] == 0
    assert text.fingerprint(0, 4, TextRows(12, 0, ("words",)))["transforms"] == [*plain["transforms"], "words/1"]
    assert text.fingerprint(0, 4, TextRows(13, 1)) != plain
    epochs = text.epochs(800, TASKS)[""]
    each = [share * 800 / len(text.rows("train", "", reads)) for _, share, reads in TASKS]
    assert epochs == pytest.approx(sum(each))


def hashed(value):
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


@pytest.mark.parametrize(
    "kind, packing, expected",
    [
        ("text", "stream", ("a781d57570c8e976", "e145e98d0be2ea42", "9b7e04069d3b", "bb6e1b048ec8a31b")),
        ("text", "documents", ("56ac8f86510ddae8", "dcd627319b93fb6f", "9b7e04069d3b", "30c90b057ab3d6ed")),
        ("mixture", "stream", ("e3f95e510ac2baed", "203a4ce7b9ed392d", "6ca7c78b2bee", "c640ba6b0c6bede5")),
        ("mixture", "documents", ("5be01e63183b1656", "2ae7f04f765a2eae", "e3e7361cba1c", "bfb8e95abbe48737")),
    ],
)
def test_what_next_token_prediction_reads_never_changes(tmp_path, monkeypatch, kind, packing, expected):
    """Runs of the past resume: data.json, fingerprint, row hashes and batches are those of the first version with them."""
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for index in range(30):
            (tmp_path / name / f"{name}{index}.txt").write_text(f"{name} {index} " * (index + 1))
    common = dict(vocab_size=270, held_out=0.3, length=16, packing=packing)
    if kind == "text":
        config = TextConfig(source="text", paths=("a",), tokenizer="bytes", **common)
    else:
        parts = tuple(Part(name, weight, "text", (name,)) for name, weight in (("a", 3.0), ("b", 1.0)))
        config = MixtureConfig(parts=parts, tokenizer="bpe", **common)
    text, reads = prepare(config, "data", quiet), TextRows(17, 1, ("segments",) if packing == "documents" else ())
    training, digest = text.training_rows(reads, 4, 7), hashlib.sha256()
    batches = [training.batch(step) for step in (0, 3, 50)]
    batches += [batch for name in text.names for batch in text.held_out(name, reads).batches(3)]
    for batch in batches:
        for _, values in sorted(batch.items()):
            digest.update(values.tobytes())
    found = hashed(text.meta), hashed(text.fingerprint(7, 4, reads)), training.record_hash(3), digest.hexdigest()[:16]
    assert found == expected
