"""Plans of studies: runs that keep their budget by the model's own FLOPs, stable ids, and what is warned of."""

import json
import math

import pytest

import pretrainx.cli.main as command_line
from pretrainx.core.errors import ConfigError
from pretrainx.runs.data import prepare
from pretrainx.runs.recipe import parse
from pretrainx.scaling import corpus, cost_table, guesses, manifest
from pretrainx.scaling import plan as plans
from pretrainx.scaling.fits import Cost
from pretrainx.scaling.plan import plan
from pretrainx.scaling.presets import PRESETS
from pretrainx.scaling.shapes import Shape, Size
from pretrainx.scaling.study import StudyConfig

TEXT = dict(
    objective=dict(name="autoregressive"),
    model=dict(name="decoder", width=64, depth=4, heads=8, unroll=0),
    data=dict(name="text", source="stdlib", tokenizer="bytes", length=64),
    train=dict(steps=1000, batch_size=8),
)
PICTURES = dict(
    objective=dict(name="mae", decoder_width=32, decoder_depth=1, decoder_heads=4),
    model=dict(name="vit", width=64, depth=4, heads=8, patch=4, positions="sincos", pool="mean", unroll=0),
    data=dict(name="images", source="shapes", size=16),
    train=dict(steps=1000, batch_size=8),
)


@pytest.fixture(autouse=True)
def quick(monkeypatch, request):
    """Only one test lays a model out."""
    if "bytes_on_a_device" not in request.node.name:
        monkeypatch.setattr(plans, "bytes_of", lambda planner, run: None)


def planned(tmp_path, values=TEXT, said=None, **study):
    say = (lambda line: None) if said is None else said.append
    return plan({**values, "study": study}, tmp_path, say)


def refused(tmp_path, values=TEXT, **study):
    with pytest.raises(ConfigError) as caught:
        planned(tmp_path, values, **study)
    return caught.value


DEAR = [pytest.mark.slow, pytest.mark.rotated]


@pytest.mark.parametrize(
    "values, ratio", [pytest.param(TEXT, 20.0, id="text"), pytest.param(PICTURES, 0.2, id="pictures", marks=DEAR)]
)
def test_an_isoflop_study(values, ratio, tmp_path):
    found = planned(tmp_path, values, budgets=(1e12, 3e12), sizes=5, tokens_per_parameter=ratio)
    assert found.kind == "isoflop" and len(found.runs) == 10
    for run in found.runs:
        facts, recipe = run.facts, parse(run.config)
        rows = facts["steps"] * facts["batch_size"]
        assert facts["tokens"] == rows * (64 if values is TEXT else 1)
        assert abs(facts["flops"] / facts["budget"] - 1) < 0.02
        assert facts["flops"] / facts["budget"] - 1 == pytest.approx(facts["flops_error"], abs=1e-9)
        assert (recipe.train.steps, recipe.schedule.warmup) == (facts["steps"], round(0.05 * facts["steps"]))
        assert run.id.startswith(f"c{'1e12' if facts['budget'] == 1e12 else '3e12'}-n")
    for budget in (1e12, 3e12):
        runs = [run.facts for run in found.runs if run.facts["budget"] == budget]
        sizes = sorted(run["parameters"]["total"] for run in runs)
        steps = [math.log(after / before) for before, after in zip(sizes, sizes[1:], strict=False)]
        assert math.log(sizes[-1] / sizes[0]) == pytest.approx(2 * math.log(4), rel=0.2) and min(steps) > 0.3
        middle = sorted(runs, key=lambda run: run["parameters"]["total"])[2]
        assert middle["tokens_per_parameter"] == pytest.approx(ratio, rel=0.5)
    # An encoder that sees a quarter of the patches, and a decoder: nothing like 6 N D.
    of_six = [run.facts["flops"] / run.facts["flops_6nd"] for run in found.runs]
    assert all(0.7 < each < 1.3 for each in of_six) if values is TEXT else all(each > 3 for each in of_six)


def test_again_and_more(tmp_path):
    """The same plan changes nothing, a larger one keeps the ids of what was there; a run that has begun is not lost."""
    said, study = [], dict(smallest=1e11, count=2, sizes=3)
    first = planned(tmp_path, said=said, **study)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")}
    assert len(files) == 7 and manifest.read(tmp_path).runs == planned(tmp_path, said=said, **study).runs
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")} == files and "as it is" in said[-1]
    more = planned(tmp_path, said=said, **{**study, "count": 3})
    assert {run.id for run in first.runs} < {run.id for run in more.runs} and "9 runs, 3 of them new" in said[-1]
    begun = manifest.workdir(tmp_path, more.runs[-1])
    begun.mkdir(parents=True)
    (begun / "config.json").write_text("{}")
    error = refused(tmp_path, **study)
    assert more.runs[-1].id in error.why and "--workdir" in error.do and len(manifest.read(tmp_path).runs) == 9
    (begun / "config.json").unlink()
    assert len(planned(tmp_path, said=said, **study).runs) == 6 and "3 that had not begun left out" in said[-1]
    assert len(list((tmp_path / "configs").glob("*.json"))) == 6


@pytest.mark.slow
@pytest.mark.rotated
def test_ids_are_of_the_run_and_not_of_the_place(tmp_path):
    study = dict(budgets=(1e12,), sizes=3)
    first, second = planned(tmp_path / "a", **study), planned(tmp_path / "b", **study)
    assert [run.id for run in first.runs] == [run.id for run in second.runs]
    assert first.runs[0].config["data"]["cache"] == str(tmp_path / "a" / "data")
    other = planned(tmp_path / "c", {**TEXT, "optimizer": dict(name="adamw", b2=0.9)}, **study)
    assert not {run.id for run in first.runs} & {run.id for run in other.runs}


@pytest.mark.slow
@pytest.mark.rotated
def test_bytes_on_a_device(tmp_path):
    """Of the largest model: 4 bytes of float32 for each parameter of the padded table, two moments of Adam beside them."""
    found = planned(tmp_path, budgets=(1e12,), sizes=3)
    largest = max(run.facts["parameters"]["total"] for run in found.runs)
    held = found.facts["bytes"]
    assert 4 * largest <= held["parameters"] < 4.4 * largest and held["optimizer"] == pytest.approx(
        2 * held["parameters"], rel=1e-3
    )
    assert "state of the largest model" in "\n".join(cost_table.lines(found))


@pytest.mark.slow
@pytest.mark.rotated
def test_seeds_and_evaluations(tmp_path):
    found = planned(tmp_path, budgets=(1e12,), sizes=3, seeds=(0, 1), evaluations=4)
    assert len(found.runs) == 6 and {run.config["seed"] for run in found.runs} == {0, 1}
    for run in found.runs:
        every, steps = run.config["train"]["eval_every"], run.facts["steps"]
        assert math.ceil(steps / every) == 4


@pytest.mark.slow
@pytest.mark.rotated
def test_a_ladder(tmp_path):
    found = planned(tmp_path, kind="ladder", parameters=(5e4, 2e5), multiples=(0.5, 2.0), tokens_per_parameter=10.0)
    assert len(found.runs) == 4
    for run in found.runs:
        assert run.facts["budget"] is None and run.facts["multiple"] in (0.5, 2.0)
        assert run.facts["tokens_per_parameter"] == pytest.approx(10 * run.facts["multiple"], rel=0.01)
    text = "\n".join(cost_table.lines(found))
    assert "schedules:" in text and all(run.id in text for run in found.runs) and "x0.5" in text
    both = planned(tmp_path / "both", kind="both", budgets=(1e12,), sizes=3, parameters=(5e4,), multiples=(1.0,))
    assert sorted(run.facts["budget"] is None for run in both.runs) == [False, False, False, True]


def test_a_grid(tmp_path):
    found = planned(tmp_path, kind="grid", grid="schedule.peak=1e-3,3e-3; model.width=32,64", seeds=(0, 1))
    assert len(found.runs) == 8 and len({run.id for run in found.runs}) == 8
    assert {(run.config["schedule"]["peak"], run.config["model"]["width"]) for run in found.runs} == {
        (peak, width) for peak in (1e-3, 3e-3) for width in (32, 64)
    }
    header, *rows = list(cost_table.lines(found))[:9]
    assert header.split()[:3] == ["schedule.peak", "model.width", "seed"] and rows[0].split()[0] == "0.001"
    (tmp_path / "list").write_text("seed=1\nseed=1 model.width=64\n")
    error = refused(tmp_path / "twice", kind="grid", list=str(tmp_path / "list"))
    assert error.what == "two sets of overrides are the same run" and "model.width=64" in error.why
    assert "modle" in refused(tmp_path / "unknown", kind="grid", grid="modle.width=1,2").why


@pytest.mark.slow
@pytest.mark.rotated
def test_rules_of_rates_reach_the_runs(tmp_path):
    rate = dict(name="power", parameters=1e5, tokens=1e6, rate=0.01, rate_exponent=-0.5)
    found = planned(tmp_path, budgets=(1e12,), sizes=3, rate=rate)
    for run in found.runs:
        wanted = 0.01 * (run.facts["parameters"]["total"] / 1e5) ** -0.5
        assert run.config["schedule"]["peak"] == pytest.approx(wanted) == run.facts["learning_rate"]
        assert run.facts["rule"] == "power"
    scaled = planned(tmp_path / "mup", budgets=(1e12,), sizes=3, rate=dict(name="mup"))
    assert {run.config["model"]["base_width"] for run in scaled.runs} == {64}


@pytest.mark.slow
@pytest.mark.rotated
def test_what_is_warned_of_and_refused(tmp_path):
    large = {**TEXT, "train": dict(steps=1000, batch_size=512)}
    notes = planned(tmp_path / "a", large, budgets=(3e10,), sizes=3, spread=1.1).facts["notes"]
    text = "\n".join(notes)
    for said in ("3 sizes per budget", "1 budgets", "whole steps change", "steps only", "collapse"):
        assert said in text, (said, text)
    assert "shorter than two steps" in refused(tmp_path / "b", budgets=(1e7,)).what
    assert refused(tmp_path / "c", budgets=(1e12,), convention="7n").where == "config.study.convention"
    assert refused(tmp_path / "d", budgets=(1e12,), counted="all").where == "config.study.counted"
    assert "hoffmann" in refused(tmp_path / "e", budgets=(1e12,), guess="hofmann").why
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "config.json").write_text("{}")
    assert "workdir of a run" in refused(tmp_path / "f", budgets=(1e12,)).what
    with pytest.raises(ConfigError, match="of a run, not of a study"):
        plan(TEXT, tmp_path / "g")


def test_an_optimum_at_the_edge():
    study = StudyConfig(smallest=1e12, sizes=3, spread=2.0)
    chosen = [
        (count, Size(Shape({"model.width": count}), float(count), 6.0 * count, None)) for count in (100, 200, 400)
    ]
    assert not list(plans.doubts(chosen, 1e12, 200.0, study))
    for best in (90.0, 100.0, 400.0, 500.0):
        assert "at the edge" in " ".join(plans.doubts(chosen, 1e12, best, study))
    assert "2 sizes of 3" in " ".join(plans.doubts(chosen[:2], 1e12, 150.0, study))


@pytest.mark.slow
@pytest.mark.rotated
def test_another_convention_is_another_plan(tmp_path):
    by = lambda name: planned(tmp_path / name, budgets=(1e12,), sizes=3, convention=name).runs[0].facts
    assert by("6n")["flops"] == by("6n")["flops_6nd"]
    assert by("model")["flops"] == pytest.approx(1e12, rel=0.02) != by("model")["flops_6nd"]


@pytest.mark.slow
@pytest.mark.rotated
def test_a_corpus_that_is_read_again(tmp_path):
    text = tmp_path / "text"
    text.mkdir()
    for number in range(8):
        (text / f"{number}.txt").write_text("some words " * 200)
    data = dict(name="text", source="text", paths=(str(text),), tokenizer="bytes", length=64, held_out=0.3)
    values = {**TEXT, "data": data}
    unknown = planned(tmp_path / "unknown", values, budgets=(1e12,), sizes=3)
    assert unknown.runs[0].facts["epochs"] is None and "not prepared" in "\n".join(unknown.facts["notes"])
    made = plan(
        {**values, "study": dict(budgets=(1e12,), sizes=3)}, tmp_path / "known", lambda line: None, prepare=True
    )
    stored = json.loads((tmp_path / "known" / "data" / "data.json").read_text())["splits"]["train"]["tokens"]
    for run in made.runs:
        assert run.facts["unique_tokens"] == stored == run.facts["corpus"]
        assert run.facts["epochs"] == run.facts["tokens"] / stored > 1
    assert "epochs, worth" in "\n".join(made.facts["notes"]) and "2 more runs" in "\n".join(made.facts["notes"])
    # All runs read one order of rows, whatever their batch.
    rows = lambda batch: prepare(parse(made.runs[0].config).data, tmp_path / "known" / "data").training_rows(
        objective_reads(made.runs[0]), batch, 0
    )
    small, large = rows(2), rows(4)
    assert [*small.numbers(0), *small.numbers(1)] == list(large.numbers(0))


def objective_reads(run):
    from pretrainx.runs import assumed
    from pretrainx.runs.parts import build

    about, recipe, _ = assumed.about(parse(run.config))
    return build(recipe, about).reads


def test_what_repeated_tokens_are_worth():
    """One epoch its own; without end U (1 + r_D) (Muennighoff et al. 2023)."""
    assert corpus.worth(5.0, 10.0) == 5.0 and corpus.worth(10.0, 10.0) == 10.0
    assert corpus.worth(1e9, 10.0) == pytest.approx(10 * (1 + 15.387756))
    assert corpus.worth(20.0, 10.0) == pytest.approx(10 + 10 * 15.387756 * (1 - math.exp(-1 / 15.387756)))


def test_guesses():
    """20:1 with C = 6 N D is N = (C / 120)^0.5; a law's is its own, along the model's cost."""
    assert guesses.at_ratio(5.76e23, 20.0, Cost()) == pytest.approx((5.76e23 / 120) ** 0.5)
    dear = Cost(points=((1e6, 12e6), (1e9, 12e9)))
    assert guesses.at_ratio(1e18, 20.0, dear) == pytest.approx((1e18 / 240) ** 0.5)
    guess, notes = guesses.guess_of(StudyConfig(smallest=1e18, guess="besiroglu"))
    assert guess(5.76e23, Cost()) == pytest.approx(72.25e9, rel=1e-3) and PRESETS["besiroglu"].told() in notes[0]


def test_the_command(tmp_path, capsys):
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps(TEXT))
    words = ["scaling", "plan", f"--config={recipe}", f"--workdir={tmp_path / 'study'}"]
    flags = ["--grid=schedule.peak=1e-3,3e-3", "--flops_per_second=1e10", "--config.train.steps=200"]
    assert command_line.main([*words, *flags, "--dry_run"]) == 0
    assert "nothing was written" in capsys.readouterr().out and not (tmp_path / "study").exists()
    assert command_line.main([*words, *flags]) == 0
    text = capsys.readouterr().out
    assert "2 runs" in text and "at 1e+10 FLOP/s (--flops_per_second)" in text
    assert {run.config["train"]["steps"] for run in manifest.read(tmp_path / "study").runs} == {200}
    assert command_line.main(words) == 2 and "of a run, not of a study" in capsys.readouterr().err
