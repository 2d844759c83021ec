"""Replay: the batch of a step again, the loss of its rows, and whether the logged loss reproduces."""

import dataclasses
import json
import re
import shutil

import jax
import numpy as np
import pytest

from pretrainx.core import random
from pretrainx.core.errors import CheckpointError, ConfigError, DataError
from pretrainx.core.json_lines import read_metrics
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.models.layers import Precision
from pretrainx.runs import examples
from pretrainx.runs import replay as replays
from pretrainx.runs.replay import open_run, replay
from pretrainx.runs.train import train

pytestmark = pytest.mark.xdist_group("operate")


def said_of(workdir, step, **options):
    said = []
    assert replay(workdir, step, say=said.append, **options) == 0
    return said


def rows_of(said):
    """[(row, corpus row, loss)] in the order shown."""
    found = (re.match(r"  row +(\d+) \| corpus row +(\d+) \| nll ([\d.]+)", line) for line in said)
    return [(int(match[1]), int(match[2]), float(match[3])) for match in found if match]


@pytest.mark.parametrize("step", [4, 6, 9])
def test_the_logged_loss_reproduces(untouched, step):
    """From the checkpoint of that very step, and rolled forward from the one before it; dropout is on, with the run's keys."""
    said = said_of(untouched, step, rows=1)
    logged = {record["step"]: record for record in read_metrics(untouched / "metrics.jsonl")}[step + 1]
    assert f"hash {logged['batch_hash']}, as logged" in said[0]
    assert any("reproduces, bit for bit" in line for line in said), said
    assert any("run twice: the same to the bit" in line for line in said), said
    losses = [loss for _, _, loss in rows_of(said)]
    assert len(losses) == 8 and losses == sorted(losses, reverse=True)
    assert np.mean(losses) == pytest.approx(logged["train/loss"], abs=1e-4)  # every row has as many targets
    assert sum("batch tokens" in line for line in said) == 1


def test_far_from_a_checkpoint(untouched):
    """Before the first one: the nearest parameters, and nothing is claimed about hardware."""
    said = said_of(untouched, 1, rows=0)
    assert any("on the checkpoint of step 4" in line for line in said)
    assert not any("reproduces" in line or "differs" in line for line in said)
    near = said_of(untouched, 7, rows=0, forward=2)
    assert any("on the checkpoint of step 4" in line for line in near) and len(rows_of(near)) == 8


def test_rows_have_the_keys_of_the_replayed_step(untouched):
    """Parameters of step 4, but the dropout of step 7: against the objective called directly with that step's keys."""
    made = open_run(untouched, 7, lambda line: None)
    objective, batch, step = made.parts.objective, made.rows.batch(7), np.int32(7)
    key = lambda purpose: objective.row_keys(random.stream(0, purpose, step), batch)
    params = jax.device_get(made.restored.state.full_params())
    assert int(made.restored.state.step) == 4

    @jax.jit
    def rows(params):
        observation = objective.observe_rows(key(random.OBSERVE), batch, step)
        return objective.encode(params, {}, observation, key(random.ENCODE), step, train=True).per_row["nll"] / 32

    expected = np.sort(np.asarray(rows(params)))[::-1]
    shown = rows_of(said_of(untouched, 7, rows=0, forward=0))
    np.testing.assert_allclose([loss for _, _, loss in shown], expected, atol=2e-4)


def test_rows_are_named_by_their_place_in_the_corpus(trained):
    said = said_of(trained, 4, rows=8)
    shown = {number: re.search(r"batch tokens {3}(.*)", said[index + 1])[1]
             for index, line in enumerate(said) if (match := re.match(r"  row .*corpus row +(\d+)", line))
             for number in [int(match[1])]}  # fmt: skip
    tokens = np.fromfile(next((trained / "data").glob("*train*.bin")), "<u2")
    for number, text in shown.items():
        row = tokens[number * 32 : number * 32 + 33]
        expected = "".join(chr(token - 2) for token in row if token >= 2)  # two specials, then the bytes
        assert text.replace("<eos>", "").replace("\\n", "\n") == expected


def test_a_loss_that_differs(copied):
    """A wrong number in the journal stands for hardware that computed it wrongly."""
    path = copied / "metrics.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(re.sub(r'"train/loss": [\d.]+', '"train/loss": 9.5', line) for line in lines) + "\n")
    said = said_of(copied, 5, rows=0)
    assert any("logged 9.500000: differs" in line for line in said)


def test_a_machine_that_gives_two_answers(untouched, monkeypatch):
    """One bit of one row's loss in the second pass stands for hardware that errs now and then."""
    passes, measured = [], replays._measured

    def flips_a_bit(*arguments):
        losses, loss = measured(*arguments)
        passes.append(losses)
        losses["nll"] = np.array(losses["nll"])
        losses["nll"].view(np.uint32)[3] ^= len(passes) > 1
        return losses, loss

    monkeypatch.setattr(replays, "_measured", flips_a_bit)
    said = said_of(untouched, 5, rows=0)
    assert len(passes) == 2 and any("2 steps from the checkpoint of step 4, run twice: " in line for line in said), said
    assert any("it differs here; look at hardware" in line for line in said)


def test_rounding_is_that_of_the_compute_dtype(copied):
    """A logged loss that is 1e-3 off differs in float32, and is as good as the same in bfloat16."""
    path = copied / "metrics.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for record in records:
        if "train/loss" in record:
            record["train/loss"] *= 1.001
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    assert any(": differs by 1.0e-03" in line for line in said_of(copied, 4, rows=0))
    made, said = open_run(copied, 4, lambda line: None), []
    made.recipe = dataclasses.replace(made.recipe, precision=Precision(compute="bfloat16"))
    loss = made.logged["train/loss"] / 1.001
    replays._verdict(made, 4, 4, loss, said.append)
    made.moved = "4 devices, here 8"
    replays._verdict(made, 4, 4, loss, said.append)
    assert "reproduces to the rounding of bfloat16, 1.0e-03 off (other microbatches or versions)" in said[0]
    assert "(the run had 4 devices, here 8)" in said[1]


def test_other_devices_are_named(copied):
    path = copied / "events.jsonl"
    path.write_text(path.read_text().replace(f'"devices": {jax.device_count()}', '"devices": 3'))
    assert open_run(copied, 4, lambda line: None).moved == f"3 devices, here {jax.device_count()}"


def test_another_batch_is_refused(make_values, copied):
    assert train(make_values(seed=3, train={"steps": 11}), copied, ("seed",), say=lambda line: None) == 0
    said = []
    with pytest.raises(DataError, match="not the one that the run logged"):
        replay(copied, 5, say=said.append)
    assert "was logged" in said[0] and rows_of(said)
    assert said_of(copied, 10, rows=0)


def test_what_cannot_be_replayed(copied, tmp_path):
    with pytest.raises(ConfigError, match="steps start at 0"):
        replay(copied, -1)
    with pytest.raises(ConfigError, match="not the workdir of a run"):
        replay(tmp_path, 1)
    for path in (copied / "checkpoints").glob("[0-9]*"):
        shutil.rmtree(path)
    with pytest.raises(CheckpointError, match="no checkpoint to replay on"):
        replay(copied, 1, say=lambda line: None)
    shutil.rmtree(copied / "data")
    with pytest.raises(DataError, match="data are missing"):
        replay(copied, 1, say=lambda line: None)


class Letters:
    """Ids 0 .. 25 are letters; 26 ends a document, 27 pads."""

    vocabulary = Vocabulary(28, (("eos", 26), ("pad", 27)))

    def decode(self, ids):
        return "".join("\n" if index == 25 else chr(97 + index) for index in ids)


def test_text_of_ids():
    tokenizer = Letters()
    assert examples.text_of(tokenizer, np.array([0, 1, 26, 2, 25, 27, 27, 27]), "tokens") == "ab<eos>c\\n<pad> x 3"
    assert examples.text_of(tokenizer, np.array([1, 1, 2, 0]), "inputs segments") == "1 x 2, 2 x 1, 0 x 1"
    assert examples.text_of(tokenizer, np.zeros((2, 3), np.float32), "image") == "float32[2, 3]"
    marked = examples.targets_of(tokenizer, np.array([0, 1, 2, 27]), np.array([1.0, 0, 1, 0]))
    assert marked == "a[0: b]c[0: <pad>]"
