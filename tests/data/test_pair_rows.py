"""Rows of pictures with captions: tokens between their ends, a function of (seed, step), and of what the fingerprint names."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest

from pretrainx.core.errors import ConfigError, DataError
from pretrainx.core.records import PairRows
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.data import captions
from pretrainx.data.pairs import prepare_pairs
from pretrainx.data.prepared_pairs import open_pairs
from toys.pair_files import READS, members, record, write_set
from toys.seeking import check_late_steps


def quiet(_):
    """A log that nobody reads."""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Prepared once for tests that only read it."""
    root = tmp_path_factory.mktemp("pairs")
    return prepare_pairs(write_set(root / "set", [record(number) for number in range(60)]), root / "data", quiet)


def test_rows_are_what_the_objective_reads(made):
    pad, end, begin = (made.vocabulary.special(name) for name in ("pad", "eos", "bos"))
    for reads in (READS, PairRows(6, 3, 9, 1, begin=False), PairRows(6, 3, 40, 2)):
        rows, spec = made.training_rows(reads, 8, 0), reads.spec(8)
        batch, numbers = rows.batch(5), rows.numbers(5)
        assert {name: (leaf.shape, jnp.dtype(leaf.dtype)) for name, leaf in batch.items()} == {
            name: (leaf.shape, jnp.dtype(leaf.dtype)) for name, leaf in spec.items()
        }
        images, labels = made.arrays("train")
        assert (batch["image"] == images[numbers]).all() and batch["valid"].all()
        assert not reads.fields or (batch["label"] == labels[numbers]).all()
        first = [begin] if reads.begin else []
        for row, number in enumerate(numbers):
            captions = made.captions("train")[number]
            assert batch["captions"][row] == min(len(captions), reads.captions)
            for index in range(reads.captions):
                ids = [b + 2 for b in captions[index].encode()] if index < len(captions) else []
                expected = [*first, *ids[: reads.width - len(first) - 1], end]
                expected += [pad] * (reads.width - len(expected))
                assert batch["tokens"][row, index].tolist() == expected
    with pytest.raises(IndexError):
        made.rows("train", READS).rows([len(members("train"))])


def test_held_out_pairs_come_once_and_the_last_batch_is_filled(made):
    count = len(members("held_out"))
    batches = list(made.held_out("", READS).batches(8))
    assert sum(batch["valid"].sum() for batch in batches) == count and count % 8
    spec = READS.spec(8)
    for batch in batches:
        assert {name: (v.shape, jnp.dtype(v.dtype)) for name, v in batch.items()} == {
            name: (leaf.shape, jnp.dtype(leaf.dtype)) for name, leaf in spec.items()
        }
    joined = {name: np.concatenate([batch[name] for batch in batches])[:count] for name in spec}
    whole = made.rows("held_out", READS).rows(range(count))
    assert all((joined[name] == whole[name]).all() for name in whole)
    # One is drawn among the captions of a filling row as of any other: there is one, and it has both ends.
    last, filled = batches[-1], ~batches[-1]["valid"]
    assert not last["image"][filled].any() and (last["captions"][filled] == 1).all()
    assert (last["tokens"][filled] == [258, 1, *[0] * 10]).all()
    assert sum(batch["valid"].sum() for batch in made.held_out("", READS, limit=3).batches(2)) == 3
    assert sum(batch["valid"].sum() for batch in made.held_out("", READS, split="train").batches(8)) == 60 - count
    with pytest.raises(ConfigError, match="unknown part"):
        made.held_out("x", READS)


def test_a_step_s_batch_is_the_same_at_any_time(made):
    rows, again = (each.training_rows(READS, 8, 7) for each in (made, open_pairs(made.directory)))
    expected = {step: rows.batch(step) for step in range(20)}
    for step in (19, 3, 10, 0):
        assert all((again.batch(step)[name] == values).all() for name, values in expected[step].items())
    assert rows.record_hash(3) == again.record_hash(3) != made.training_rows(READS, 8, 8).record_hash(3)
    check_late_steps(rows)
    assert made.epochs(120, READS) == {"": 120 / len(members("train"))}


def test_a_caption_is_framed_and_cut_between_its_ends():
    known = Vocabulary(40, (("pad", 0), ("eos", 1), ("bos", 2)))
    ids = [np.arange(10, 15), np.zeros(0, np.int32), np.array([20], np.uint16)]
    assert captions.framed_each(ids, 5, known, True).tolist() == [[2, 10, 11, 12, 1], [2, 1, 0, 0, 0], [2, 20, 1, 0, 0]]
    plain = captions.framed_each(ids, 5, known, False)
    assert plain.tolist() == [[10, 11, 12, 13, 1], [1, 0, 0, 0, 0], [20, 1, 0, 0, 0]] and plain.dtype == np.int32
    flat, sizes = np.array([10, 11, 12]), np.array([[2, 0], [0, 1]])
    assert captions.framed(flat, sizes, 4, known, True).tolist() == [
        [[2, 10, 11, 1], [2, 1, 0, 0]],
        [[2, 1, 0, 0], [2, 12, 1, 0]],
    ]
    assert captions.framed_each([], 5, known, True).shape == (0, 5)
    with pytest.raises(ConfigError, match="no special token 'bos'"):
        captions.framed_each(ids, 5, Vocabulary(40, (("pad", 0), ("eos", 1))), True)


def test_what_rows_cannot_be(made, tmp_path):
    with pytest.raises(ConfigError, match="another form"):
        made.rows("train", PairRows(8, 3, 12))
    with pytest.raises(ConfigError, match="no room for a token"):
        made.rows("train", PairRows(6, 3, 2))
    assert len(made.rows("train", PairRows(6, 3, 2, begin=False)))
    with pytest.raises(DataError, match="fewer training pictures than one batch"):
        made.training_rows(READS, 61, 0)
    plain = [{name: value for name, value in record(n).items() if name != "label"} for n in range(60)]
    config = dataclasses.replace(write_set(tmp_path / "set", plain), specials=())
    unlabelled = prepare_pairs(config, tmp_path / "data", quiet)
    assert unlabelled.images.classes == () and unlabelled.arrays("train")[1] is None
    with pytest.raises(ConfigError, match="reads labels, and the pictures have none"):
        unlabelled.rows("train", dataclasses.replace(READS, begin=False))
    with pytest.raises(ConfigError, match="no special token 'bos'"):
        unlabelled.rows("train", PairRows(6, 3, 12))
    assert len(unlabelled.rows("train", PairRows(6, 3, 12, begin=False)))


def test_the_fingerprint_names_all_that_decides_a_row(made):
    base = made.fingerprint(0, 8, READS)
    assert json.loads(json.dumps(base)) == base
    assert base["tokenizer"] == made.tokenizer.digest and base["images"] == made.images.as_json()
    (source,) = base["sources"]
    train = made.meta["splits"]["train"]
    assert source["digest"] == train["digest"] and source["captions_digests"] == train["captions"]["digests"]
    assert set(source["captions_digests"]) == {"tokens", "offsets", "pictures"}
    others = [made.fingerprint(1, 8, READS), made.fingerprint(0, 4, READS)]
    for change in ({"width": 13}, {"captions": 2}, {"begin": False}, {"fields": ()}):
        others.append(made.fingerprint(0, 8, dataclasses.replace(READS, **change)))
    assert all(other != base for other in others)
