"""`pretrainx plan`: what it answers, and that the answers are true where that can be checked here."""

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import pytest

from pretrainx.cli.config_file import load
from pretrainx.core.errors import ConfigError, OutOfMemoryError
from pretrainx.models.stack import REMAT
from pretrainx.parallel import machines
from pretrainx.parallel.collectives import Collective
from pretrainx.runs import compiled, plan, plan_changes, plan_sweep
from pretrainx.runs.operations import matmul_flops
from pretrainx.runs.plan_report import lines, report
from pretrainx.runs.recipe import parse
from pretrainx.runs.replicas import step_of, traced
from pretrainx.training.step import make_train_step

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.xdist_group("plans")


def values_of(**sections):
    found = {
        "data": {"name": "text", "source": "stdlib", "tokenizer": "bytes", "length": 32},
        "model": {"name": "decoder", "width": 32, "depth": 2, "heads": 4},
        "schedule": {"name": "cosine", "warmup": 1},
        "train": {"steps": 5, "batch_size": 16},
        "mesh": {"data": 1, "fsdp": -1},
    }
    return {name: found.get(name, {}) | sections.get(name, {}) for name in found.keys() | sections.keys()}


def layout_of(values, topology):
    machine = machines.parse(topology)
    return plan.lay_out(values, machine, machines.described(machine))


@pytest.fixture(scope="module")
def answered(tmp_path_factory):
    """(what was said, the JSON) of a plan for eight simulated devices."""
    said, path = [], tmp_path_factory.mktemp("plan") / "plan.json"
    assert report(values_of(ema={"decay": 0.9}), "cpu:8", str(path), say=said.append) == 0
    return "\n".join(said), json.loads(path.read_text())


def test_the_json(answered):
    said, found = answered
    assert {name: type(value) for name, value in found.items()} == {
        **dict.fromkeys(("version", "devices", "slices", "parameters", "checkpoint_bytes"), int),
        **dict.fromkeys(("mesh", "batch", "memory", "flops", "floor", "config"), dict),
        **dict.fromkeys(("assumed", "collectives", "kept_whole", "warnings"), list),
        "topology": str,
        "fits": bool,
        "compile_seconds": float,
    }
    memory = found["memory"]
    parts = ("parameters", "optimizer", "gradients", "averages", "extras", "batch", "activations_and_temporaries")
    assert sum(memory[part] for part in parts) == memory["peak"] < memory["device"] and found["fits"]
    # AdamW's moments and the average are as the parameters, sharded over eight; the batch is 16 rows of 33 tokens and a flag.
    assert memory["gradients"] == memory["parameters"] == memory["averages"]
    assert 2 * memory["parameters"] <= memory["optimizer"] < 2 * memory["parameters"] + 64
    assert found["batch"]["bytes"] == found["batch"]["host_bytes"] == 16 * (33 * 4 + 1) and memory["batch"] == 2 * (
        33 * 4 + 1
    )
    assert 4 * 4 * found["parameters"] <= found["checkpoint_bytes"] <= 8 * 4 * memory["parameters"]
    assert found["mesh"] == {"data": 1, "fsdp": 8, "tensor": 1, "context": 1, "expert": 1, "stage": 1}
    assert all(set(row) == {"kind", "axes", "bytes", "count", "largest", "where"} for row in found["collectives"])
    assert any(row["axes"] == ["fsdp"] for row in found["collectives"]) and found["floor"]["bound"]
    assert found["config"]["model"]["width"] == 32
    for words in (
        "cpu:8: 8 devices, mesh fsdp 8",
        "activations and temporaries",
        "the least time of a step",
        "written: ",
    ):
        assert words in said


def test_replicas_that_train_apart_hold_more():
    """Each has parameters and moments of its own beside the common ones, and there is a momentum of the outer step."""
    mesh = {"data": 2, "fsdp": 4}
    layouts = [layout_of(values_of(mesh=mesh, local_sgd={"every": every}), "cpu:8") for every in (0, 5)]
    plain, apart = (layout.counted() for layout in layouts)
    assert apart["optimizer"] >= plain["optimizer"] + 2 * plain["parameters"]
    assert apart["parameters"] == plain["parameters"]
    said = [plan.warnings(plan.Plan(layout, compiled.Compiled({}, 1), (), None)) for layout in layouts]
    assert said[0] == [] and "the outer one after each 5" in said[1][0]


def test_what_cannot_be_counted_is_said():
    """A loop without trips is counted once, and a compiler that tells no sizes makes nothing fit."""
    layout = layout_of(values_of(), "cpu:8")
    unsure = Collective("all-gather", ("fsdp",), 8, 800, certain=False)
    silent = plan.Plan(layout, compiled.Compiled(layout.counted(), 0), (unsure, replace(unsure, certain=True)), None)
    assert not silent.fits
    found = plan.record(silent)
    assert found["fits"] is None and [line[:30] for line in found["warnings"]] == ["1 collectives stand in loops t"]
    assert "tells no sizes" in "\n".join(lines(silent, found))


def test_stages_execute_their_bubble():
    """Four pieces through four stages take seven ticks, not four; the floor has the rest of the model beside that."""
    wide = {"model": {"width": 128, "depth": 4}, "train": {"batch_size": 16}}
    plain, staged = (
        layout_of(values_of(mesh={"fsdp": shards, "stage": stages}, **wide), f"cpu:{shards * stages}")
        for shards, stages in ((1, 1), (2, 4))
    )
    floors = []
    for layout in (plain, staged):
        batch = compiled.abstract_batch(layout.parts, layout.rows)
        flops = matmul_flops(traced(step_of(layout.parts, layout.like), layout.like, batch).jaxpr)
        floors.append(plan.floor_of(layout, compiled.Compiled(layout.counted(), 1, flops=flops), ()))
    alone, divided = floors
    assert divided.bubble == 3 / 7 and divided.seconds == max(divided.compute, divided.memory)
    assert 8 * divided.compute == pytest.approx(7 / 4 * alone.compute, rel=0.05)


def test_what_a_run_refuses_a_plan_refuses():
    with pytest.raises(ConfigError, match="cannot be split over the mesh"):
        layout_of(values_of(model={"width": 20004}), "cpu:8")


def test_what_recomputes_a_forward_pass():
    model_of = lambda remat: parse(values_of(model={"remat": remat})).model
    assert {name for name in REMAT if plan.recomputes(model_of(name))} == {"full", "offload"}


def test_flops_say_their_convention(answered):
    _, found = answered
    flops, rows = found["flops"], found["batch"]["rows"]
    assert flops["convention"].startswith("matmul_causal") and flops["per_step"] == rows * flops["per_row"]
    assert flops["six_n_per_step"] == 6 * found["parameters"] * 32 * rows
    assert flops["per_step"] < flops["executed_per_step"] < 1.5 * flops["per_step"]


def test_where_it_cannot_be_written_is_said_first(tmp_path):
    with pytest.raises(ConfigError, match="cannot be written"):
        report(values_of(), "cpu:8", str(tmp_path / "nowhere" / "plan.json"), say=lambda line: None)


@pytest.mark.parametrize(
    "message, sizes",
    [
        ("RESOURCE_EXHAUSTED: Ran out of memory on HBM x (32.31G) exceeds available HBM (15.75G)", (32.31, 15.75)),
        ("RESOURCE_EXHAUSTED: Used 20.5G of 15.75G hbm. Exceeded", (20.5, 15.75)),
        ("INTERNAL: (32.31G) exceeds available HBM (15.75G)", None),
    ],
)
def test_a_refusal_for_lack_of_memory_is_read(message, sizes):
    wanted = sizes and tuple(round(size * 2**30) for size in sizes)
    assert compiled.shortage(message) == wanted


def test_lack_of_another_memory_is_an_error():
    with pytest.raises(OutOfMemoryError, match="vmem"):
        compiled.shortage("RESOURCE_EXHAUSTED: Ran out of memory in memory space vmem while allocating on stack")


def test_what_the_compiler_writes_is_heard(capfd):
    """Past Python, on the descriptor; afterwards stderr is what it was, and the cache on disk is used again."""
    said, line = [], b'E1 Involuntary full rematerialization. HLO operation: %gather.3 = f32[8,4] op_name="a/b"\n'
    with compiled.listening(said):
        assert not jax.config.jax_enable_compilation_cache
        os.write(2, line + line + b"noise\n")
    os.write(2, b"after")
    assert jax.config.jax_enable_compilation_cache and capfd.readouterr().err == "after"
    assert compiled.complaints(said) == ("%gather.3 = f32[8,4] in a/b",)


def test_changes_from_the_cheapest_on():
    layout = layout_of(values_of(mesh={"data": -1, "fsdp": 1}), "cpu:8")
    found = list(plan_changes.candidates(layout))
    assert found[:4] == [
        (("train.microbatches", 2),),
        (("train.microbatches", 4),),
        (("model.remat", "full"),),
        (("mesh.data", 1), ("mesh.fsdp", -1)),
    ]
    assert dict(found[-1]) == {"train.microbatches": 16, "model.remat": "full", "mesh.data": 1, "mesh.fsdp": -1}
    values = values_of()
    assert plan_changes.changed(values, found[2])["model"]["remat"] == "full" and "remat" not in values["model"]


def pretended(monkeypatch, peak_of):
    """`plan.make` without compiling: a peak from the layout, and a step as long as the mesh's fsdp axis says."""
    made = []

    class Pretended(plan.Plan):
        step_seconds = property(
            lambda self: self.layout.mesh["fsdp"] + self.layout.mesh["tensor"] / 100 if self.fits else math.inf
        )

    def make(layout, effort):
        made.append(layout)
        return Pretended(layout, compiled.Compiled(layout.counted(), peak_of(layout)), (), None)

    monkeypatch.setattr(plan, "make", make)
    return made


def test_the_nearest_change_is_the_first_that_fits(monkeypatch):
    """Microbatches do not help here and recomputation does; a batch that does not divide is passed over unasked."""
    huge = lambda layout: 1 if layout.recipe.model.remat == "full" else 2**40
    made = pretended(monkeypatch, huge)
    values, machine = values_of(), machines.parse("cpu:8")
    devices = machines.described(machine)
    first = plan.make(plan.lay_out(values, machine, devices), "low")
    assert not first.fits
    change, tried = plan_changes.search(values, first, devices, "low", lambda line: None)
    assert change.overrides == (("model.remat", "full"),) and change.words() == "--config.model.remat=full"
    assert [each.fits for each in tried] == [False, True] and len(
        made
    ) == 3  # 4 microbatches of 16 rows: half a row a device
    assert plan_changes.search(values, first, devices, "low", lambda line: None, compiles=1)[0] is None


def test_a_sweep_ranks_what_fits_and_compiles_no_more_than_it_may(monkeypatch):
    """Tensor ways divide the heads; state that is too large is not compiled; of a mesh the fewest microbatches that fit win."""
    limit = machines.parse("cpu:4").memory
    made = pretended(monkeypatch, lambda layout: limit + 1 if layout.recipe.train.microbatches < 2 else limit)
    machine = machines.parse("cpu:4")
    entries = plan_sweep.sweep(values_of(), machine, machines.described(machine), "low", lambda line: None, compiles=30)
    tensors = {dict(entry.overrides)["mesh.tensor"] for entry in entries}
    assert tensors == {1, 2, 4} and len(made) <= 30
    fitting = [entry for entry in entries if entry.made is not None and entry.made.fits]
    assert entries[: len(fitting)] == fitting and len(fitting) >= 3
    assert all(dict(entry.overrides)["train.microbatches"] == 2 for entry in fitting)
    assert [entry.made.step_seconds for entry in fitting] == sorted(entry.made.step_seconds for entry in fitting)
    text = "\n".join(plan_sweep.lines(entries))
    assert "does not fit" in text and "best: --config.mesh.data=" in text
    assert json.loads(json.dumps(plan_sweep.record(entries)))[0]["fits"]
    few = plan_sweep.sweep(values_of(), machine, machines.described(machine), "low", lambda line: None, compiles=2)
    assert sum(entry.made is not None for entry in few) == 2 and any("--limit" in entry.why for entry in few)


def test_a_sweep_looks_at_each_axis_that_divides_something():
    """Each with the least of fsdp first; rows of 32 tokens are not divided, and a stage of the configuration stays."""
    model = {"experts": {"count": 4, "chosen": 2}, "depth": 4}
    found = list(plan_sweep.meshes(layout_of(values_of(model=model), "cpu:8")))
    more = [{axis: ways for axis, ways in mesh.items() if ways > 1 and axis not in ("data", "fsdp")} for mesh in found]
    first = [{}, *({axis: ways} for axis in ("tensor", "expert", "stage") for ways in (2, 4))]
    assert more[: len(first)] == first and all(mesh["fsdp"] == 1 for mesh in found[: len(first)])
    assert all(math.prod(mesh.values()) == 8 for mesh in found) and len(found) == 4 + 3 * (3 + 2)
    staged = plan_sweep.meshes(layout_of(values_of(mesh={"stage": 2}), "cpu:8"))
    assert {mesh["stage"] for mesh in staged} == {2}
    long = values_of(data={"length": 8192}, train={"batch_size": 8})
    assert {mesh["context"] for mesh in plan_sweep.meshes(layout_of(long, "cpu:8"))} == {1, 2, 4}


UNROLLED = {
    "decoder": {"model": {"width": 512, "heads": 4, "unroll": 0}, "data": {"length": 64}},
    "encoder": {
        "model": {"name": "encoder", "width": 1024, "depth": 2, "heads": 8, "unroll": 0},
        "objective": {"name": "masked_lm"},
        "data": {"length": 64, "specials": ("mask", "cls", "sep")},
    },
    "vit": {
        "model": {"name": "vit", "width": 1024, "depth": 2, "heads": 8, "patch": 4, "unroll": 0},
        "objective": {"name": "classification"},
        "data": {"name": "images", "source": "shapes", "size": 32},
    },
}


@pytest.mark.slow
@pytest.mark.rotated
@pytest.mark.parametrize("family", UNROLLED)
def test_flops_are_those_of_an_unrolled_program(family):
    """By XLA's own count, where no loop hides any; a decoder's analytic figure leaves half of the scores out."""
    changes = UNROLLED[family]
    values = values_of(**changes)
    if "name" in changes["data"]:
        values["data"] = changes["data"]
    layout = layout_of(values, "cpu:1")
    parts, batch = layout.parts, compiled.abstract_batch(layout.parts, layout.rows)
    step = make_train_step(parts.objective, parts.optimizer, parts.options, layout.like)
    counted = matmul_flops(step.jitted.trace(*step.static, layout.like, batch).jaxpr)
    real = step.lower(layout.like, batch).compile().cost_analysis()["flops"]
    assert counted == pytest.approx(real, rel=0.02)
    assert plan.model_flops(layout) == pytest.approx(real, rel=0.02)


@pytest.mark.slow
def test_the_peak_is_what_a_step_takes():
    """Of eight simulated devices, in resident memory of their process, which is measured; see plan_memory.py."""
    values = values_of(
        data={"tokenizer": "bpe", "vocab_size": 4096, "length": 256},
        model={"width": 384, "depth": 4, "heads": 6, "unroll": 0},
        train={"batch_size": 32},
    )
    # Every large array a mapping of its own: what is given back to the system is not resident any more.
    settings = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "2"}
    environment = {**os.environ, **settings, "PYTHONPATH": str(ROOT)}
    words = [sys.executable, str(Path(__file__).with_name("plan_memory.py")), json.dumps(values)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["predicted"] == pytest.approx(found["measured"], rel=0.1) and found["predicted"] > 1e8


@pytest.mark.slow
def test_a_tpu_that_is_not_there():
    pytest.importorskip("libtpu")
    found = plan.record(plan.make(layout_of(values_of(), "v5e:4x4")))  # four hosts
    assert found["fits"] and found["memory"]["device"] == int(15.75 * 2**30)
    assert 4 * found["batch"]["host_bytes"] == found["batch"]["bytes"]
    assert {tuple(row["axes"]) for row in found["collectives"]} == {("fsdp",)} and found["floor"]["real"]


@pytest.mark.slow
def test_what_a_tpu_has_no_room_for_is_an_answer(tmp_path):
    """The compiler refuses; the answer has its sizes, and state alone that is too large is not compiled at all."""
    pytest.importorskip("libtpu")
    wide = {"width": 2048, "depth": 4, "heads": 16}
    values = values_of(model=wide, data={"length": 2048}, train={"batch_size": 256})
    said, path = [], tmp_path / "plan.json"
    assert report(values, "v5e:2x2", str(path), limit=1, say=said.append) == 0
    found = json.loads(path.read_text())
    assert not found["fits"] and found["floor"] is None and found["memory"]["peak"] > found["memory"]["device"]
    assert "DOES NOT FIT" in "\n".join(said) and len(found["tried"]) == 1


@pytest.mark.slow
def test_gpus_that_are_not_there():
    """In bfloat16, where cuDNN's attention is what would run."""
    pytest.importorskip("jax_cuda12_plugin")
    values = values_of(precision={"compute": "bfloat16"}, data={"length": 256})
    found = plan.record(plan.make(layout_of(values, "h100:8")))
    assert found["fits"] and found["memory"]["device"] < 84978434048 and found["collectives"]


@pytest.mark.slow
def test_recipes_of_the_table_can_be_laid_out():
    """Each configuration of benchmarks/plan_table.py goes with its machine, and its state alone fits."""
    pytest.importorskip("libtpu")
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from plan_table import CONFIGS, ROWS

    for _, config, topology, overrides in ROWS:
        if not topology.startswith("h"):
            layout = layout_of(load(str(CONFIGS / config), list(overrides)), topology)
            assert sum(layout.counted().values()) < layout.machine.memory, config
