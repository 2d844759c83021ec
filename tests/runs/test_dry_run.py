"""The dry run: it shows what a run would be, meets what the run would meet, and leaves nothing behind."""

import json
import re
import shutil
from types import SimpleNamespace

import pytest

from pretrainx.core.config import ABSENT
from pretrainx.core.errors import CheckpointError, ConfigError, DataError
from pretrainx.core.json_lines import read_metrics
from pretrainx.runs import disk
from pretrainx.runs.dry_run import config_lines, dry_run
from pretrainx.runs.recipe import parse
from pretrainx.training.restore import FormatError, digest

pytestmark = pytest.mark.xdist_group("operate")


def said_of(values, workdir, **options):
    said = []
    assert dry_run(values, workdir, say=said.append, **options) == 0
    return "\n".join(said)


def test_a_fresh_run(make_values, tmp_path):
    of_file = make_values()
    values = make_values(train={"microbatches": 1, "steps": 40}, seed=4)
    text = said_of(values, tmp_path / "new" / "run", of_file=of_file)
    assert list(tmp_path.iterdir()) == []
    assert "seed = 0 -> 4   (override)" in text and "train.steps = 10 -> 40   (override)" in text
    assert text.count("(override)") == 2 and "model.width = 32\n" in text
    for heading in ("config", "data", "parameters", "run", "memory, per device", "checkpoints", "the first batch"):
        assert f"== {heading} ==" in text
    assert re.search(r"layers/mlp/up/kernel +kernel .*2x32x128 +float32 +\(None, None, None\)", text)
    assert "batch: 8 rows = 8 ways x 1 microbatches x 1 rows per device" in text
    # AdamW: two moments as large as the parameters, and a gradient as large as these.
    counted = re.search(r"parameters ([\d.]+) MiB, optimizer ([\d.]+) MiB, gradients ([\d.]+) MiB", text)
    params, moments, gradients = map(float, counted.groups())
    assert gradients == params and moments == pytest.approx(2 * params, abs=0.02)
    compiled = re.search(r"compiled: arguments ([\d.]+) MiB, temporary ([\d.]+) MiB", text)
    assert float(compiled[1]) >= 4 * params - 0.02 and float(compiled[2]) > 0  # parameters, two moments, the average
    assert "would start from scratch" in text and "nothing was trained" in text
    assert len(re.findall(r"inputs tokens  ", text)) == 2


def test_it_reads_like_the_run(make_values, untouched, tmp_path):
    """Batches have the hashes that the run logged: the first one, and the next one after a checkpoint. Nothing is touched."""
    logged = [record["batch_hash"] for record in read_metrics(untouched / "metrics.jsonl") if "batch_hash" in record]
    assert f"hash {logged[0]}" in said_of(make_values(), tmp_path / "new")
    shutil.copytree(untouched, tmp_path / "shorter")
    shutil.rmtree(tmp_path / "shorter" / "checkpoints" / "10")
    resumed = said_of(make_values(), tmp_path / "shorter")
    assert f"hash {logged[8]}" in resumed and "== batch 8, the first that it would read ==" in resumed
    text = said_of(make_values(train={"steps": 20}), untouched)
    assert "would resume from step 10, which is whole; 10 steps are left" in text
    assert "config.train.steps: 10 before, 20 now (safe" in text and "tokens/s of this run" in text


def test_rows_of_whole_documents(make_values, tmp_path):
    text = said_of(make_values(data={"packing": "documents", "length": 48}), tmp_path / "run")
    assert re.search(r"batch segments +1 x \d+", text) and "inputs positions" in text


@pytest.mark.parametrize(
    "change, code, says",
    [
        ({"train": {"batch_size": 12}}, 2, "does not divide"),
        ({"data": {"paths": ["/nowhere"]}}, 3, "nowhere"),
        ({"seed": 9}, 3, "--allow_change=seed"),
        ({"model": {"width": 64}}, 4, "config.model.width: 32 before, 64 now"),
        ({"resume": "never"}, 2, "the workdir is not empty"),
    ],
)
def test_it_meets_what_the_run_would_meet(make_values, untouched, change, code, says):
    with pytest.raises((ConfigError, DataError, CheckpointError)) as caught:
        dry_run(make_values(**change), untouched, say=lambda line: None)
    assert caught.value.exit_code == code and says in str(caught.value)


def test_damage(make_values, copied):
    for path in (copied / "checkpoints" / "10").rglob("d/*"):
        path.write_bytes(path.read_bytes()[:-100])
    text = said_of(make_values(), copied)
    assert "warning: step 10: " in text and "would be set aside" in text and "would resume from step 8" in text
    assert (copied / "checkpoints" / "10").is_dir()
    for path in (copied / "checkpoints").rglob("meta/metadata"):
        path.write_text("{")
    with pytest.raises(CheckpointError, match="no checkpoint is usable"):
        dry_run(make_values(), copied, say=lambda line: None)


def test_a_config_that_needs_its_overrides(make_values, tmp_path):
    """Only what they changed is marked, although the file alone is no run."""
    of_file = make_values()
    of_file["train"]["steps"] = ABSENT
    values = make_values(train={"steps": 40}, model={"width": 64})
    marked = [line for line in config_lines(parse(values), values, of_file) if "(override)" in line]
    assert marked == ["train.steps = '(absent)' -> 40   (override)", "model.width = 32 -> 64   (override)"]


def test_a_checkpoint_of_another_version(make_values, copied):
    path = copied / "checkpoints" / "10" / "meta" / "metadata"
    meta = json.loads(path.read_text())
    del meta["digest"]
    meta["format"] = 2
    path.write_text(json.dumps(meta | {"digest": digest(meta)}))
    with pytest.raises(FormatError, match="this version reads 1"):
        dry_run(make_values(), copied, say=lambda line: None)


def test_a_disk_that_is_too_small(make_values, tmp_path, untouched, monkeypatch):
    """As in the run itself: exit 4 where not even one state fits (after all is shown), else a warning."""
    free = lambda size: monkeypatch.setattr(disk.shutil, "disk_usage", lambda path: SimpleNamespace(free=size))
    free(1_000_000)
    said = said_of(make_values(), tmp_path / "run")
    assert re.search(r"warning: the disk may be too small for the checkpoints: 4 x 0\.[56]\d MiB", said)
    free(1000)
    assert "warning: the disk may be" in said_of(make_values(checkpoint={"keep": 30}), untouched), "one is there"
    said = []
    with pytest.raises(CheckpointError, match="disk is too small") as caught:
        dry_run(make_values(), tmp_path / "run", say=said.append)
    assert re.search(r"4 x 0\.[56]\d MiB", str(caught.value)) and "config.checkpoint.keep" in str(caught.value)
    assert any("inputs tokens" in line for line in said)


def test_a_workdir_that_cannot_be(make_values, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be made"):
        dry_run(make_values(), tmp_path / "file" / "run", say=lambda line: None)
