"""`pretrainx.load`: a run as an object, in a plain program and on any number of devices."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import pretrainx
from pretrainx.core import paths
from pretrainx.core.errors import CheckpointError, ConfigError, DataError
from pretrainx.core.json_lines import read_metrics
from pretrainx.runs.recipe import parse
from pretrainx.runs.replay import replay
from pretrainx.training.restore import FormatError, digest, read_meta

pytestmark = pytest.mark.xdist_group("operate")

PROGRAM = """
import json, sys
import numpy as np
import pretrainx
run = pretrainx.load(sys.argv[1])
tokens = np.load(sys.argv[2])
print(json.dumps({
    "devices": run.rules.mesh.size,
    "loss": run.loss({"tokens": tokens}),
    "features": np.asarray(run.features({"tokens": tokens[:3, :-1]})).tolist(),
    "absl": "absl.app" in sys.modules and sys.modules["absl.flags"].FLAGS.is_parsed(),
}))
"""


def held_out(run: Path, length=32, rows=8) -> np.ndarray:
    """The evaluation's only batch: int32[8, 33], rows that overlap by one."""
    tokens = np.fromfile(next((run / "data").glob("*held_out*.bin")), "<u2").astype(np.int32)
    return np.stack([tokens[row * length :][: length + 1] for row in range(rows)])


def test_attributes_and_losses(untouched, make_values):
    run = pretrainx.load(untouched)
    assert run.step == 10 and run.config == parse(make_values()) and run.damaged == ()
    tokens = held_out(untouched)
    assert run.tokenizer.decode(tokens[0]).isprintable() or "\n" in run.tokenizer.decode(tokens[0])
    # The averaged parameters, as the run's own evaluation used them, on the same rows.
    logged = read_metrics(untouched / "metrics.jsonl")[-1]["eval/held_out/loss"]
    found = run.loss({"tokens": tokens})
    assert found["loss"] == pytest.approx(logged, rel=1e-6) and found["nll"] == found["loss"]
    leaves = read_meta(untouched / "checkpoints", 10)["leaves"]
    assert {f"params/{path}" for path, _ in paths.leaves(run.params)} == {p for p in leaves if p.startswith("params/")}
    # Rows that are not valid do not count.
    spoilt = np.concatenate([tokens, tokens[:, ::-1]])
    assert run.loss({"tokens": spoilt, "valid": np.arange(16) < 8})["loss"] == pytest.approx(found["loss"], rel=1e-6)
    assert run.loss({"tokens": spoilt})["loss"] != pytest.approx(found["loss"], rel=1e-3)


def test_outputs(trained):
    run = pretrainx.load(trained)
    inputs = {"tokens": held_out(trained)[:5, :20]}  # any number of rows, and shorter ones
    found = run.outputs(inputs, ["logits", "hidden"])
    assert found["logits"].shape == (5, 20, run.objective.vocabulary.size) and found["hidden"].shape == (5, 20, 32)
    features = run.features(inputs)
    assert features.dtype == np.float32 and features.shape == (5, 32)
    np.testing.assert_allclose(features, found["hidden"].mean(1), rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="did you mean 'logits'"):
        run.outputs(inputs, ["logit"])
    with pytest.raises(ConfigError, match=r"batch\['tokens'\]"):
        run.loss({"token": inputs["tokens"]})


@pytest.mark.parametrize("devices", [1, 3])
def test_in_a_plain_program(trained, tmp_path, devices):
    """No flags, and on other numbers of devices than the run had: 8 rows do not even divide over 3."""
    run, tokens = pretrainx.load(trained), held_out(trained)
    np.save(tmp_path / "tokens.npy", tokens)
    env = os.environ | {"JAX_NUM_CPU_DEVICES": str(devices)}
    words = [sys.executable, "-c", PROGRAM, str(trained), str(tmp_path / "tokens.npy")]
    done = subprocess.run(words, capture_output=True, text=True, env=env, timeout=200)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["devices"] == 1 and not found["absl"]
    assert found["loss"]["loss"] == pytest.approx(run.loss({"tokens": tokens})["loss"], rel=1e-5)
    np.testing.assert_allclose(found["features"], run.features({"tokens": tokens[:3, :-1]}), rtol=1e-4, atol=1e-5)


def test_another_step_and_a_damaged_one(copied):
    assert pretrainx.load(copied, step=4).step == 4
    for path in (copied / "checkpoints" / "10").rglob("d/*"):
        path.write_bytes(path.read_bytes()[:-100])
    run = pretrainx.load(copied)
    assert run.step == 8 and "step 10" in run.damaged[0]
    assert (copied / "checkpoints" / "10").is_dir()  # it was only read
    with pytest.raises(CheckpointError):
        pretrainx.load(copied, step=10)
    with pytest.raises(CheckpointError, match="steps there: 4, 8, 10"):
        pretrainx.load(copied, step=5)


def test_another_version_is_no_damage(copied):
    """A newest step that this version cannot read is an error, not a reason to take an older one."""
    path = copied / "checkpoints" / "10" / "meta" / "metadata"
    meta = json.loads(path.read_text())
    del meta["digest"]
    meta["format"] = 2
    path.write_text(json.dumps(meta | {"digest": digest(meta)}))
    with pytest.raises(FormatError, match="this version reads 1"):
        pretrainx.load(copied)
    with pytest.raises(FormatError, match="this version reads 1"):
        replay(copied, 10, say=lambda line: None)
    assert pretrainx.load(copied, step=8).step == 8


def test_what_is_no_run(copied, tmp_path):
    with pytest.raises(ConfigError, match="not the workdir of a run"):
        pretrainx.load(tmp_path)
    tokenizer = next((copied / "data").glob("tokenizer.json"))
    tokenizer.write_text(tokenizer.read_text().replace("</eos>", "<eos>").replace('"Ā"', '"\\u0101x"', 1))
    with pytest.raises(DataError):
        pretrainx.load(copied)
    shutil.rmtree(copied / "data")
    with pytest.raises(DataError, match="tokenizer is missing"):
        pretrainx.load(copied)
