"""Rows of whole documents: every target once, nothing joined that was apart, little left empty, the same each time."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrainx.core.errors import ConfigError, DataError
from pretrainx.core.records import TextRows
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.data.fields import Marks
from pretrainx.data.held_out import HeldOutText
from pretrainx.data.packing import best_fit, cut, pack
from pretrainx.data.prepared import open_prepared
from pretrainx.data.rows import TrainingRows
from pretrainx.data.stream import PackedRows, TokenRows
from pretrainx.data.text import TextConfig, prepare
from toys.seeking import check_late_steps

VOCABULARY = Vocabulary(100_000, (("pad", 0), ("eos", 1)))
MARKS = Marks(0, 1, np.zeros(1, bool), np.zeros(1, bool))
SEGMENTS = TextRows(33, 1, ("segments",))  # what next-token prediction reads of documents, T = 32
LENGTHS = st.lists(st.integers(2, 40), min_size=1, max_size=60)


def quiet(_):
    """A log that nobody reads."""


def packed(lengths, length, window=1 << 16, overlap=1):
    """(stream, rows of T + overlap tokens): every token has an id of its own, from 2 on."""
    tokens = np.arange(2, 2 + sum(lengths), dtype=np.uint32)
    reads = TextRows(length + overlap, overlap, ("segments",))
    return tokens, PackedRows(tokens, *pack(np.array(lengths), reads.width, overlap, window), reads, MARKS)


@settings(max_examples=150, deadline=None, database=None)
@given(lengths=LENGTHS, length=st.integers(1, 17), window=st.sampled_from([1, 3, 1000]))
def test_every_target_of_every_document_exactly_once(lengths, length, window):
    tokens, rows = packed(lengths, length, window)
    batch = rows.rows(range(len(rows)))
    ids, segments = batch["tokens"], batch["segments"]
    assert ids.shape == segments.shape == (len(rows), length + 1) and ids.dtype == segments.dtype == np.int32
    same = (segments[:, 1:] == segments[:, :-1]) & (segments[:, 1:] > 0)
    pairs = sorted(zip(ids[:, :-1][same].tolist(), ids[:, 1:][same].tolist(), strict=True))
    ends = set((np.cumsum(lengths) + 1).tolist())  # ids of the last token of each document
    assert pairs == [(i, i + 1) for i in range(2, 1 + len(tokens)) if i not in ends]
    # Padding is at the end; segments count up from one; a document that fits into a row is not cut.
    assert ((ids == 0) == (segments == 0)).all()
    assert all((np.diff(row[row > 0]) >= 0).all() and row[0] == 1 for row in segments)
    assert all((row[len(row[row > 0]) :] == 0).all() for row in segments)
    starts = (np.cumsum(lengths) - lengths + 2).tolist()
    pieces = {tuple(row[marks == s].tolist()) for row, marks in zip(ids, segments, strict=True) for s in set(marks)}
    for start, count in zip(starts, lengths, strict=True):
        assert count > length + 1 or tuple(range(start, start + count)) in pieces


@settings(max_examples=60, deadline=None, database=None)
@given(lengths=LENGTHS, width=st.integers(1, 17), window=st.sampled_from([1, 3, 1000]))
def test_without_an_overlap_every_token_exactly_once(lengths, width, window):
    """What objectives read that hide tokens of the row itself."""
    tokens, rows = packed(lengths, width, window, overlap=0)
    batch = rows.rows(range(len(rows)))
    ids, segments = batch["tokens"], batch["segments"]
    assert ids.shape == (len(rows), width) and sorted(ids[segments > 0].tolist()) == tokens.tolist()
    # No more rows than if every piece had one, no fewer than the tokens need; one document is not two segments of a row.
    assert -(-len(tokens) // width) <= len(rows) <= sum(-(-count // width) for count in lengths)
    document = np.repeat(np.arange(len(lengths)), lengths)
    for row, marks in zip(ids, segments, strict=True):
        for segment in range(1, marks.max() + 1):
            own = row[marks == segment]
            assert len(set(document[own - 2])) == 1 and (np.diff(own) == 1).all()


def test_long_documents_are_cut_with_an_overlap_of_one():
    assert cut(np.array([3, 9, 10, 2]), 4, 0).tolist() == [
        [0, 3],
        [3, 4],
        [7, 4],
        [11, 1],
        [12, 4],
        [16, 4],
        [20, 2],
        [22, 2],
    ]
    assert cut(np.array([3, 9, 10, 2]), 5).tolist() == [[0, 3], [3, 5], [7, 5], [12, 5], [16, 5], [20, 2], [22, 2]]


def test_the_fullest_row_that_has_room_is_taken():
    # 6 and 5 open rows; 4 goes beside 6 (room 4, left 0), not beside 5 (room 5); 3 and 2 beside 5. As they come: 3 rows.
    assert best_fit(np.array([2, 6, 3, 5, 4]), 10).tolist() == [1, 0, 1, 1, 0]


def test_little_of_a_row_stays_empty():
    lengths = np.random.default_rng(0).geometric(1 / 60, 20_000) + 1
    borders, pieces = pack(lengths, 257)
    fill = pieces[:, 1].sum() / (len(borders) - 1) / 257
    assert fill > 0.99
    # Next-fit in the given order, the simplest packer, as a yardstick.
    rows, left = 0, 0
    for count in cut(lengths, 257)[:, 1]:
        rows, left = (rows, left - count) if count <= left else (rows + 1, 257 - count)
    assert len(borders) - 1 < 0.95 * rows
    # A prefix of the rows is a prefix of the corpus, nearly: rows are not sorted by length.
    first = pieces[borders[:-1]][:, 0]
    assert (np.diff(first) > 0).all()


@pytest.fixture
def corpus(tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    for index in range(60):
        (folder / f"{index:02}.txt").write_text(f"{index} " * (index % 13 + 1))
    return TextConfig(
        source="text", paths=(str(folder),), tokenizer="bytes", held_out=0.2, length=32, packing="documents"
    )


def test_prepared_documents_come_back_whole(corpus, tmp_path):
    lines = []
    text = prepare(corpus, tmp_path / "data", lines.append)
    assert sum("full" in line and "rows of whole documents" in line for line in lines) == 2
    facts = text.split("train", "")
    rows = text.rows("train", "", SEGMENTS)
    assert facts["rows"] == len(rows) == text.fingerprint(0, 4, SEGMENTS)["sources"][0]["rows"]
    batch = rows.rows(range(len(rows)))
    assert facts["fill"] == pytest.approx((batch["segments"] > 0).mean(), abs=1e-6)
    texts = {
        text.tokenizer.decode(batch["tokens"][r][batch["segments"][r] == s])
        for r in range(len(rows))
        for s in range(1, batch["segments"][r].max() + 1)
    }
    tokens = np.asarray(text.tokens("train"))
    whole = [document for document in np.split(tokens, np.flatnonzero(tokens == 1) + 1) if 0 < len(document) <= 33]
    assert len(whole) > 20 and {text.tokenizer.decode(document) for document in whole} <= texts
    training = text.training_rows(SEGMENTS, 4, 1)
    assert set(training.batch(3)) == {"tokens", "segments", "valid"}
    assert (training.batch(3)["segments"] == rows.rows(training.numbers(3).tolist())["segments"]).all()


def test_another_length_needs_another_preparation(corpus, tmp_path):
    text = prepare(corpus, tmp_path / "data", quiet)
    with pytest.raises(DataError, match="config.data.length"):
        prepare(dataclasses.replace(corpus, length=33), tmp_path / "data", quiet)
    with pytest.raises(DataError, match="packed for 32, asked for 33"):
        text.training_rows(TextRows(34, 1, ("segments",)), 4, 0)
    with pytest.raises(DataError, match="config.data.packing"):
        prepare(dataclasses.replace(corpus, packing="stream"), tmp_path / "data", quiet)
    # Rows for an objective that hides tokens of the row itself are made where the configuration gives their width.
    masked = TextRows(30, 0, ("segments",))
    with pytest.raises(DataError, match="prepare anew with config.data.width=30"):
        text.training_rows(masked, 4, 0)
    other = prepare(dataclasses.replace(corpus, width=30), tmp_path / "other", quiet)
    assert other.training_rows(masked, 4, 0).batch(0)["tokens"].shape == (4, 30) and other.meta["width"] == 30
    with pytest.raises(DataError, match="config.data.width=0, config.data.length=32"):
        other.training_rows(SEGMENTS, 4, 0)
    with pytest.raises(ConfigError, match="'single' for one document"):
        text.training_rows(TextRows(33, 1, ("length",)), 4, 0)
    with pytest.raises(ConfigError, match="config.data.width"):
        dataclasses.replace(corpus, width=30, packing="stream")
    stream = prepare(dataclasses.replace(corpus, packing="stream"), tmp_path / "stream", quiet)
    assert stream.fingerprint(0, 4, SEGMENTS)["packing"] != text.fingerprint(0, 4, SEGMENTS)["packing"]
    # The token files are the same: only the tables are added.
    assert stream.split("train", "")["digest"] == text.split("train", "")["digest"]


@pytest.mark.parametrize("name", ["train.rows.bin", "train.pieces.bin", "held_out.pieces.bin"])
def test_a_damaged_table_is_named(corpus, tmp_path, name):
    prepare(corpus, tmp_path / "data", quiet)
    path = tmp_path / "data" / name
    intact = path.read_bytes()
    path.write_bytes(intact[:8] + bytes([intact[8] ^ 1]) + intact[9:])
    with pytest.raises(DataError, match=name):
        open_prepared(tmp_path / "data")


def test_held_out_documents_each_target_once_and_padded_batches(corpus, tmp_path):
    text = prepare(corpus, tmp_path / "data", quiet)
    held_out = text.held_out("", SEGMENTS)
    rows, batches = text.rows("held_out", "", SEGMENTS), list(held_out.batches(4))
    valid = np.concatenate([batch["valid"] for batch in batches])
    ids, segments = (np.concatenate([batch[name] for batch in batches]) for name in ("tokens", "segments"))
    assert valid.sum() == len(rows) and len(valid) == len(batches) * 4 and not segments[~valid].any()
    same = (segments[:, 1:] == segments[:, :-1]) & (segments[:, 1:] > 0)
    facts = text.split("held_out", "")
    assert same.sum() == facts["tokens"] - facts["documents"]
    assert sum(len(s) - 1 for s in held_out.sequences()) == same.sum()
    assert sum(map(len, held_out.targets())) == same.sum()
    assert text.held_out("", SEGMENTS, limit=33).count == 2
    assert ids.dtype == np.int32


def test_a_foreign_token_is_found_in_packed_batches():
    tokens, rows = packed([5, 9, 30, 4], 8)
    small = Vocabulary(10, (("pad", 0),))
    with pytest.raises(DataError, match="step 0"):
        TrainingRows(rows, 2, 0, small).batch(0)
    for found in (rows, TokenRows(tokens, TextRows(9, 1), MARKS, rest=True)):
        with pytest.raises(DataError, match="held-out batch 0"):
            list(HeldOutText(found, len(found), small).batches(64))


def test_a_late_step_costs_what_the_first_costs():
    lengths = np.random.default_rng(1).integers(2, 60, 5000).tolist()
    training = TrainingRows(packed(lengths, 32)[1], 32, 0, Vocabulary(1 << 30, (("pad", 0),)))
    check_late_steps(training)


def test_any_order_of_reading_gives_the_same_batches():
    lengths = np.random.default_rng(2).integers(2, 60, 500).tolist()
    forwards, backwards = (TrainingRows(packed(lengths, 32)[1], 6, 2, VOCABULARY) for _ in range(2))
    expected = [forwards.batch(step) for step in range(80)]
    for step in range(79, -1, -1):
        found = backwards.batch(step)
        assert all((found[name] == expected[step][name]).all() for name in ("tokens", "segments"))
