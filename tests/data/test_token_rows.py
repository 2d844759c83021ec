"""Which rows a step reads: random access, whole permutations, every target once, the same whatever was read before."""

import numpy as np
import pytest

from pretrainx.core.errors import ConfigError, DataError
from pretrainx.core.records import TextRows
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.data.fields import Marks
from pretrainx.data.held_out import HeldOutText
from pretrainx.data.rows import TrainingRows
from pretrainx.data.stream import TokenRows
from toys.seeking import check_late_steps

VOCABULARY = Vocabulary(1000, (("pad", 0), ("eos", 1)))
MARKS = Marks(0, 1, np.zeros(1, bool), np.zeros(1, bool))


def stream(count, dtype=np.uint16):
    return (np.arange(count) % 998 + 2).astype(dtype)


def cut(tokens, length, overlap=1, rest=False):
    """Rows of T = `length`."""
    return TokenRows(tokens, TextRows(length + overlap, overlap), MARKS, rest)


@pytest.mark.parametrize("count", [9, 10, 16, 17, 18, 100])
def test_targets_of_all_rows_are_the_stream_without_its_first_token(count):
    tokens = stream(count)
    rows = cut(tokens, 8)
    assert len(rows) == (count - 1) // 8
    together = [rows[number]["tokens"] for number in range(len(rows))]
    assert all(row.dtype == np.int32 and row.shape == (9,) for row in together)
    assert np.concatenate([row[1:] for row in together]).tolist() == tokens[1 : 1 + 8 * len(rows)].tolist()
    assert np.concatenate([row[:-1] for row in together]).tolist() == tokens[: 8 * len(rows)].tolist()
    for number in (-1, len(rows)):
        with pytest.raises(IndexError):
            rows[number]


def test_grain_reads_rows_too(tmp_path):
    import grain

    stream(41).tofile(tmp_path / "train.bin")
    rows = cut(np.memmap(tmp_path / "train.bin", dtype=np.uint16, mode="r"), 8)
    batch = grain.MapDataset.source(rows).batch(2)[1]["tokens"]
    assert batch.tolist() == rows.rows([2, 3])["tokens"].tolist()


@pytest.mark.parametrize("count, batch_size", [(7, 3), (8, 4), (5, 5), (50, 8), (1, 1)])
def test_each_epoch_is_another_permutation_of_all_rows(count, batch_size):
    training = TrainingRows(cut(stream(count * 4 + 1), 4), batch_size, 5, VOCABULARY)
    epochs = 6
    numbers = np.concatenate([training.numbers(step) for step in range(epochs * count // batch_size + 1)])
    orders = [tuple(numbers[epoch * count : (epoch + 1) * count]) for epoch in range(epochs)]
    assert all(sorted(order) == list(range(count)) for order in orders)
    assert count < 5 or len(set(orders)) == epochs
    # A batch may cross the border; the epoch is that of its first row.
    assert [training.epoch(step) for step in range(9)] == [step * batch_size // count for step in range(9)]
    assert training.first_row(7) == 7 * batch_size


def test_any_order_of_reading_gives_the_same_batches():
    def fresh():
        return TrainingRows(cut(stream(4001), 8), 6, 2, VOCABULARY)

    forwards = fresh()
    expected = {step: forwards.batch(step)["tokens"] for step in range(200)}
    hashes = {step: forwards.record_hash(step) for step in range(200)}
    backwards = fresh()
    for step in (*range(199, -1, -1), 3, 3, 150):
        assert (backwards.batch(step)["tokens"] == expected[step]).all()
        assert backwards.record_hash(step) == hashes[step]
    assert (fresh().batch(137)["tokens"] == expected[137]).all()
    assert len(set(hashes.values())) == 200 and all(len(value) == 12 for value in hashes.values())
    other = TrainingRows(cut(stream(4001), 8), 6, 3, VOCABULARY)
    assert all(other.record_hash(step) != hashes[step] for step in range(200))


def test_a_batch_holds_the_rows_it_names():
    rows = cut(stream(4001), 8)
    training = TrainingRows(rows, 6, 2, VOCABULARY)
    batch = training.batch(11)
    assert set(batch) == {"tokens", "valid"} and batch["tokens"].dtype == np.int32
    assert batch["valid"].dtype == bool and batch["valid"].tolist() == [True] * 6
    for row, number in zip(batch["tokens"], training.numbers(11), strict=True):
        assert (row == rows[int(number)]["tokens"]).all()


def test_row_positions_do_not_depend_on_the_batch_size():
    rows = cut(stream(4001), 8)
    small, large = (TrainingRows(rows, size, 9, VOCABULARY) for size in (4, 12))
    joined = np.concatenate([small.numbers(step) for step in range(300)])
    assert (joined == np.concatenate([large.numbers(step) for step in range(100)])).all()


def test_a_late_step_costs_what_the_first_costs():
    training = TrainingRows(cut(stream(40_001), 8), 32, 0, VOCABULARY)
    check_late_steps(training)


def test_a_foreign_token_is_found_in_its_batch():
    tokens = stream(401, np.uint32)
    tokens[200] = 1000
    training = TrainingRows(cut(tokens, 8), 5, 0, VOCABULARY)
    raised = 0
    for step in range(10):
        holds = (training.numbers(step) == 25).any() or (training.numbers(step) == 24).any()
        if holds:
            with pytest.raises(DataError, match=f"step {step}"):
                training.batch(step)
            raised += 1
        else:
            training.batch(step)
    assert raised in (1, 2)


def test_too_little_text_is_refused_with_both_numbers():
    with pytest.raises(DataError) as caught:
        TrainingRows(cut(stream(33), 8), 5, 0, VOCABULARY)
    message = str(caught.value)
    assert "4 rows" in message and "takes 5" in message
    assert all(key in message for key in ("config.data.paths", "config.train.batch_size", "config.data.length"))
    with pytest.raises(DataError, match="8 tokens; a row of length 8 needs 9"):
        cut(stream(8), 8)
    for seed in (-1, 2**32):
        with pytest.raises(ConfigError, match="config.seed"):
            TrainingRows(cut(stream(33), 8), 2, seed, VOCABULARY)
    with pytest.raises(IndexError):
        TrainingRows(cut(stream(33), 8), 2, 0, VOCABULARY).batch(-1)


@pytest.mark.parametrize("count", [8, 9, 15, 16, 17, 100])
def test_without_an_overlap_the_tokens_of_all_rows_are_the_stream(count):
    rows = cut(stream(count), 8, overlap=0)
    assert len(rows) == count // 8
    together = np.concatenate([rows[number]["tokens"] for number in range(len(rows))])
    assert together.tolist() == stream(count)[: count // 8 * 8].tolist()


@pytest.mark.parametrize("overlap", [0, 1])
@pytest.mark.parametrize("count", [2, 8, 9, 10, 17, 24, 25, 26, 49, 50, 61])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_every_held_out_target_exactly_once(count, batch_size, overlap):
    tokens = stream(count)
    held_out = cut(tokens, 8, overlap, rest=True)
    held_out = HeldOutText(held_out, len(held_out), VOCABULARY)
    batches = list(held_out.batches(batch_size))
    rows = -(-(count - overlap) // 8)
    assert len(batches) == -(-rows // batch_size)
    valid = np.concatenate([batch["valid"] for batch in batches])
    together = np.concatenate([batch["tokens"] for batch in batches])
    assert together.dtype == np.int32 and together.shape == (len(batches) * batch_size, 8 + overlap)
    assert valid.dtype == bool and valid.tolist() == [True] * rows + [False] * (len(valid) - rows)
    assert (together[~valid] == 0).all()
    targets, expected = together[valid][:, overlap:].reshape(-1), tokens[overlap:].tolist()
    assert targets[: len(expected)].tolist() == expected and (targets[len(expected) :] == 0).all()
    assert [found.tolist() for found in held_out.targets()] == [expected]
    inputs = together[valid][:, :8].reshape(-1)
    assert inputs[: len(expected)].tolist() == tokens[: len(expected)].tolist()


def test_held_out_text_without_a_target_is_refused():
    with pytest.raises(DataError, match="config.data.held_out"):
        next(HeldOutText(cut(stream(1), 8, rest=True), 0, VOCABULARY).batches(2))
