"""What may change on resume: every key of the config has its class, and the classes hold in a real resume."""

import re

import pytest

from pretrainx.core import config as strict
from pretrainx.core.errors import CheckpointError, ConfigError, DataError
from pretrainx.core.json_lines import read, read_metrics
from pretrainx.runs.recipe import DATA, MODELS, OBJECTIVES, OF_IMAGES, OF_LABELLED, OF_PAIRS, parse
from pretrainx.runs.resume import RULES, changes, covers, plain, refuse_changes, refuse_unknown, rule_of
from pretrainx.runs.train import train
from pretrainx.training.restore import read_meta

pytestmark = pytest.mark.xdist_group("operate")

# A change of each kind of key, and the class that it must have.
CHANGES = [
    ("train.steps", 20, "safe"),
    ("train.log_every", 5, "safe"),
    ("train.eval_every", 5, "safe"),
    ("train.microbatches", 2, "safe"),
    ("train.grad_clip", 0.5, "warn"),
    ("train.batch_size", 16, "refuse"),
    ("seed", 7, "refuse"),
    ("model.width", 64, "refuse"),
    ("model.activation", "relu_squared", "refuse"),
    ("model.dropout", 0.2, "warn"),
    ("model.remat", "full", "safe"),
    ("data.length", 16, "refuse"),
    ("data.held_out", 0.4, "refuse"),
    ("optimizer.b2", 0.99, "warn"),
    ("optimizer.name", "sgd", "warn"),
    ("schedule.peak", 1e-3, "warn"),
    ("ema.decay", 0.9, "warn"),
    ("precision.compute", "bfloat16", "warn"),
    ("precision.params", "bfloat16", "refuse"),
    ("optimizer.moments", "bfloat16", "refuse"),
    ("mesh.fsdp", 2, "safe"),
    ("checkpoint.keep", 9, "safe"),
    ("evals.trigram", True, "safe"),
    ("guard.patience", 9, "safe"),
    ("guard.spike_sigma", 6.0, "warn"),
    ("guard.window", 16, "refuse"),
    ("init_from", "elsewhere", "safe"),
    ("resume", "never", "safe"),
    ("writers.tensorboard", True, "safe"),
    ("watchdog.step", 60.0, "safe"),
    ("distributed.heartbeat_seconds", 60, "safe"),
]


def changed(values, key, value):
    *sections, last = key.split(".")
    node = values
    for section in sections:
        node = node.setdefault(section, {})
    node[last] = value
    return values


@pytest.mark.parametrize("key, value, kind", CHANGES, ids=[key for key, _, _ in CHANGES])
def test_class_of_a_change(key, value, kind, make_values, trained):
    meta = read_meta(trained / "checkpoints", 10)
    other = {**meta["data"], "sources": "other"} if key.startswith("data.") else meta["data"]
    found = changes(meta, parse(changed(make_values(), key, value)), other)
    mine = [change for change in found if change.key == key]
    assert [change.kind for change in mine] == [kind] and mine[0].new == value
    if kind != "refuse":
        return refuse_changes(found, ())
    with pytest.raises((DataError, CheckpointError)) as caught:
        refuse_changes(found, ())
    of_data = key.partition(".")[0] in ("data", "seed", "train")
    assert caught.value.exit_code == (3 if of_data else 4)
    for part in (f"config.{key}", repr(value), "refuse: ", "--allow_change="):
        assert part in str(caught.value)
    allowed = re.search(r"--allow_change=(\S+)", str(caught.value))[1].split(",")
    refuse_unknown(allowed, parse(make_values()))  # what is advised is taken
    refuse_changes(found, allowed)


def test_every_key_has_a_class():
    """No key of any part falls to the last rule, which knows nothing."""
    tables = {"model": MODELS, "data": DATA, "objective": OBJECTIVES}
    least = {"train": {"steps": 1000, "batch_size": 8}}
    mixture = {"name": "mixture", "parts": [{"name": "a", "source": "stdlib"}, {"name": "b", "source": "stdlib"}]}
    for section, table in tables.items():
        for name in table:
            values = {**least, section: mixture if name == "mixture" else {"name": name}}
            if name in OF_IMAGES or name == "images":
                values = {"objective": {"name": "simclr"}, "data": {"name": "images"}} | values
            if name in OF_LABELLED or name == "labelled":
                values = {"objective": {"name": "sequence_classification"}, "data": {"name": "labelled"}} | values
            if name in OF_PAIRS or name == "pairs":
                values = {"objective": {"name": "clip"}, "data": {"name": "pairs"}} | values
            for key, _ in strict.flatten(plain(parse(values))):
                assert rule_of(key) is not RULES[-1], key


def test_the_same_data_elsewhere_are_no_change(make_values, trained, tmp_path):
    meta = read_meta(trained / "checkpoints", 10)
    moved = parse(make_values(data={"cache": str(tmp_path), "paths": ["/elsewhere"]}))
    assert {change.kind for change in changes(meta, moved, meta["data"])} == {"safe"}
    # The same config, but the files hold other text.
    found = changes(meta, parse(make_values()), {**meta["data"], "tokenizer": "another"})
    assert [(change.key, change.kind) for change in found] == [("data", "refuse")]
    assert not [change for change in changes(meta, parse(make_values()), meta["data"])]


def test_keys_that_are_new_since_the_checkpoint_are_no_change(make_values, trained):
    meta = read_meta(trained / "checkpoints", 10)
    del meta["config"]["model"]["qk_norm"], meta["config"]["watchdog"]
    assert changes(meta, parse(make_values()), meta["data"]) == []
    meta["config"]["model"]["gone"] = 1  # a key that this version does not know
    assert "model.gone" in [change.key for change in changes(meta, parse(make_values()), meta["data"])]


@pytest.mark.parametrize(
    "name, key, yes",
    [
        ("data", "data.paths", True),
        ("data.paths", "data.paths", True),
        ("data.paths", "data.length", False),
        ("train.batch_size", "train.batch_size", True),
        ("train", "train.batch_size", True),
        ("seed", "seeds", False),
        ("optimizer.groups", "optimizer.groups[0].rate", True),
    ],
)
def test_names_cover_sections_and_keys(name, key, yes):
    assert covers([name], key) is yes


def test_unknown_names_are_refused(make_values):
    recipe = parse(make_values())
    refuse_unknown(("data", "seed", "train.batch_size", "model.dropout", "evals.samples"), recipe)
    with pytest.raises(ConfigError, match="did you mean 'train.batch_size'"):
        refuse_unknown(("train.batchsize",), recipe)


def test_a_real_resume(make_values, copied):
    """Refused without the flag; with it the run goes on, and what changed is in the journal with its class."""
    values = make_values(seed=5, train={"steps": 12}, model={"dropout": 0.3})
    metrics = (copied / "metrics.jsonl").read_bytes()
    with pytest.raises(DataError) as caught:
        train(values, copied, say=lambda line: None)
    block = str(caught.value)
    assert "config.seed: 0 before, 5 now (refuse" in block and "config.train.steps: 10 before, 12 now (safe" in block
    assert "config.model.dropout: 0.1 before, 0.3 now (warn" in block and "--allow_change=seed" in block
    assert (copied / "metrics.jsonl").read_bytes() == metrics
    said = []
    assert train(values, copied, ("seed",), say=said.append) == 0
    assert "resumed: config.train.steps is 12, was 10" in said
    assert any(line.startswith("warning: resumed: config.seed is 5, was 0 (allowed") for line in said)
    assert any(line.startswith("warning: resumed: config.model.dropout is 0.3, was 0.1 (warn") for line in said)
    events = {event["path"]: event["change"] for event in read(copied / "events.jsonl") if event["kind"] == "config"}
    assert {path: change.split(":")[0] for path, change in events.items()} == {
        "seed": "allowed",
        "train.steps": "safe",
        "model.dropout": "warn",
    }
    assert read_metrics(copied / "metrics.jsonl")[-1]["step"] == 12


def test_a_model_that_does_not_fit(make_values, copied):
    """Shapes differ: no flag makes them fit, and the block names the keys to blame rather than a leaf alone."""
    for allowed in ((), ("model",)):
        with pytest.raises(CheckpointError) as caught:
            train(make_values(model={"width": 64}), copied, allowed, say=lambda line: None)
        assert "config.model.width: 32 before, 64 now" in str(caught.value) and "leaf" in str(caught.value)


def test_rows_that_an_objective_reads_otherwise_are_no_key_of_the_data(make_values, trained):
    """A width that follows from the objective: the key that changed is named, and one that did not is not."""
    meta = read_meta(trained / "checkpoints", 10)
    (rows,) = [part["rows"] for part in meta["data"]["sources"]]
    now = {**meta["data"], "length": 70, "sources": [{**meta["data"]["sources"][0], "rows": rows - 9}]}
    meta["config"]["objective"]["loss"]["chunks"] = 3
    found = changes(meta, parse(make_values()), now)
    assert [change.key for change in found] == ["data", "objective.loss.chunks"]
    assert found[0].name == "data, length" and found[0].kind == "refuse"


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("model.image.unroll", "safe"),
        ("model.text.remat", "safe"),
        ("objective.form", "safe"),
        ("objective.block", "safe"),
        ("model.text.dropout", "warn"),
        ("model.image.patch", "refuse"),
        ("objective.duplicates", "refuse"),
    ],
)
def test_keys_of_two_towers_are_as_those_of_one(key, kind):
    assert rule_of(key).kind == kind
