"""Runs that keep what another run knows, from a config to what they have forgotten; and membership, by the command."""

import json
import shutil

import numpy as np
import pytest

from pretrainx.core import paths
from pretrainx.core.errors import ConfigError
from pretrainx.core.json_lines import read
from pretrainx.runs.dry_run import dry_run
from pretrainx.runs.evals import evaluate
from pretrainx.runs.load import load
from pretrainx.runs.preserved import read_fisher
from pretrainx.runs.train import train

pytestmark = pytest.mark.xdist_group("runs")


def quiet(line):
    pass


def test_there_must_be_something_to_preserve(make_values, tmp_path):
    for name in ("ewc", "l2_sp", "distill"):
        with pytest.raises(ConfigError, match="no knowledge to preserve"):
            dry_run(make_values(preserve={"name": name}), tmp_path / "run", say=quiet)


@pytest.fixture(scope="module")
def source(trained, tmp_path_factory):
    """A run whose Fisher information was measured, of its 8 first training rows."""
    workdir = tmp_path_factory.mktemp("source") / "run"
    shutil.copytree(trained, workdir)
    evaluate(workdir, names=("fisher",), evals={"fisher": {"examples": 8}}, say=quiet)
    return workdir


def adapted(make_values, source, workdir, steps=3, **sections):
    values = make_values(
        init_from=str(source), train={"steps": steps}, checkpoint={"every": 2}, ema={"decay": 0.0}, **sections
    )
    assert train(values, workdir, say=quiet) == 0
    return workdir


def forgotten(workdir):
    evaluate(workdir, names=("forgetting",), say=quiet)
    found = read(workdir / "evals.jsonl")[-1]
    return {name: found[f"eval/forgetting/{name}"] for name in ("before/loss", "after/loss", "difference")}


STRONG = {"name": "ewc", "strength": 1e6, "normalise": "max"}


@pytest.mark.slow
@pytest.mark.rotated
@pytest.mark.parametrize("adapt", ["full", "lora"])
def test_ewc_holds_what_the_fisher_information_says(adapt, make_values, source, tmp_path):
    """Anchor and importance come from the source run, and lie in the extras; the stronger they hold, the less is forgotten."""
    fisher, meta = read_fisher(source)
    assert meta["examples"] == 8 and meta["step"] == 10
    free = adapted(
        make_values, source, tmp_path / "free", 20, adapt={"name": adapt}, schedule={"peak": 0.05, "warmup": 0}
    )
    held = adapted(
        make_values,
        source,
        tmp_path / "held",
        20,
        adapt={"name": adapt},
        preserve=STRONG,
        schedule={"peak": 0.05, "warmup": 0},
    )
    run, before = load(held), load(source)
    importance, anchor = (dict(paths.leaves(run.extras[name])) for name in ("importance", "anchor"))
    assert set(anchor) == set(importance) and len(anchor) == (2 if adapt == "lora" else len(fisher))
    largest = max(leaf.max() for leaf in fisher.values())
    for path, leaf in importance.items():
        np.testing.assert_allclose(leaf, fisher[path] / largest, rtol=1e-5)
    assert set(anchor) <= {path for path, _ in paths.leaves(before.params)}
    losses = forgotten(held)
    own = [record["eval/held_out/loss"] for record in read(source / "metrics.jsonl") if "eval/held_out/loss" in record][
        -1
    ]
    assert losses["before/loss"] == pytest.approx(own, rel=1e-5)
    assert losses["difference"] == pytest.approx(losses["after/loss"] - losses["before/loss"], rel=1e-6)
    if adapt == "full":  # updates of rank 8 have hardly changed anything in so few steps
        assert abs(losses["difference"]) < 0.3 * abs(forgotten(free)["difference"])


@pytest.mark.slow
@pytest.mark.rotated
@pytest.mark.parametrize(("name", "strength"), [("l2_sp", 30.0), ("distill", 1e3)])
def test_a_strong_hold_keeps_the_old_task(name, strength, make_values, source, tmp_path):
    """The same new task with and without: held, the loss of the old one is nearer to where it started."""
    schedule, preserve = {"peak": 0.01, "warmup": 0}, {"name": name, "strength": strength}
    free = adapted(make_values, source, tmp_path / "free", 20, schedule=schedule)
    held = adapted(make_values, source, tmp_path / "held", 20, schedule=schedule, preserve=preserve)
    record = read(held / "metrics.jsonl")[-1]
    assert record[f"eval/held_out/term/{name}"] > 0
    assert abs(forgotten(held)["difference"]) < 0.3 * abs(forgotten(free)["difference"])
    assert train(json.loads((held / "config.json").read_text()), held, say=quiet) == 0  # what is there is taken up


@pytest.mark.slow
@pytest.mark.rotated
def test_a_source_that_was_adapted_itself_is_the_model_that_it_is(make_values, source, tmp_path):
    """Its updates count once, what preserves it not at all: in Fisher information, in pruning, and in what is forgotten."""
    lora = {"name": "lora", "alpha": 64.0, "targets": ".*(query|key|value|out|up|down)"}
    moving, still = ({"name": "constant", "peak": peak, "warmup": 0} for peak in (0.2, 1e-9))
    preserve = {"name": "ewc", "strength": 1.0}
    middle = adapted(make_values, source, tmp_path / "middle", 20, adapt=lora, preserve=preserve, schedule=moving)
    sections = {"fisher": {"examples": 8}, "pruning": {"sparsities": [0.0]}}
    evaluate(middle, names=("held_out", "fisher", "pruning"), evals=sections, say=quiet)
    found = read(middle / "evals.jsonl")[-1]
    own = found["eval/held_out/term/nll"]
    assert found["eval/held_out/loss"] > own + 1e-4 and found["eval/pruning/0/loss"] == pytest.approx(own, rel=1e-4)
    assert read_fisher(middle)[0].keys() == read_fisher(source)[0].keys()
    assert abs(forgotten(middle)["difference"]) > 0.005  # what counting updates twice would show
    for adapt in ({"name": "full"}, lora):
        last = adapted(make_values, middle, tmp_path / adapt["name"], 1, adapt=adapt, preserve=preserve, schedule=still)
        losses = forgotten(last)
        assert losses["before/loss"] == pytest.approx(own, rel=1e-4)
        assert losses["after/loss"] == pytest.approx(own, rel=1e-4)


@pytest.mark.slow
@pytest.mark.rotated
def test_fisher_information_of_another_step_is_refused(make_values, source, tmp_path):
    workdir = tmp_path / "other"
    shutil.copytree(source, workdir)
    shutil.rmtree(workdir / "checkpoints" / "10")
    with pytest.raises(ConfigError, match="of step 8, which the parameters are from"):
        dry_run(make_values(init_from=str(workdir), preserve={"name": "ewc"}), tmp_path / "run", say=quiet)


@pytest.mark.slow
@pytest.mark.rotated
def test_members_by_the_command(make_values, trained, tmp_path):
    """Every score of a text, calibrated by a reference; a run that reads other rows is no reference."""
    workdir = tmp_path / "run"
    shutil.copytree(trained, workdir)
    evaluate(
        workdir,
        names=("membership", "pruning"),
        evals={"membership": {"rows": 40, "reference": str(trained)}, "pruning": {"sparsities": [0.0, 0.9]}},
        say=quiet,
    )
    found = read(workdir / "evals.jsonl")[-1]
    for name in ("loss", "min_k_20", "min_k_plus_20", "zlib", "blind"):
        assert 0 <= found[f"eval/membership/{name}/auc"] <= 1
    assert found["eval/membership/calibrated/auc"] == 0.5  # of itself
    assert found["eval/membership/rows"] == 40
    assert found["eval/pruning/0/loss"] < found["eval/pruning/0.9/loss"]
    other = tmp_path / "other"
    assert train(make_values(data={"length": 16}, train={"steps": 1}, schedule={"warmup": 0}), other, say=quiet) == 0
    with pytest.raises(ConfigError, match="reads other rows"):
        evaluate(workdir, names=("membership",), evals={"membership": {"reference": str(other)}}, say=quiet)


def pictures(held_out, **data):
    return {
        "objective": {"name": "classification", "augment": {"name": "none"}},
        "model": {"name": "vit", "patch": 2, "width": 16, "depth": 1, "heads": 2, "positions": "sincos", "unroll": 0},
        "data": {"name": "images", "source": "digits", "limit": 120, "held_out": held_out, **data},
        "schedule": {"name": "constant", "peak": 1e-2, "warmup": 0},
        "train": {"steps": 2, "batch_size": 8},
        "evals": {
            "limit": 16,
            "representations": {"pictures": 0, "train_limit": 20, "limit": 16, "labels_per_class": 1},
        },
    }


@pytest.mark.slow
@pytest.mark.rotated
def test_shadow_runs_by_the_command(make_values, trained, tmp_path):
    """Which pictures a shadow run was trained on is read from its own data; text has no labels to be sure of."""
    pytest.importorskip("sklearn", reason="the digits are scikit-learn's: pip install 'pretrainx[test]'")
    target, few, most = (tmp_path / name for name in ("target", "few", "most"))
    for workdir, values in ((target, pictures(0.5)), (few, pictures(0.5, labels=2)), (most, pictures(0.8))):
        assert train(values, workdir, say=quiet) == 0
    shadows = {"membership": {"rows": 40, "shadows": [str(few), str(most)]}}
    evaluate(target, names=("membership",), evals=shadows, say=quiet)
    found = read(target / "evals.jsonl")[-1]
    assert 0 <= found["eval/membership/lira_offline_2/auc"] <= 1
    text = tmp_path / "text"
    shutil.copytree(trained, text)
    with pytest.raises(ConfigError, match="how sure models are"):
        evaluate(text, names=("membership",), evals=shadows, say=quiet)
