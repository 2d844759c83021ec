"""Two processes of two devices each do what one process does: losses, batches, resuming, signals, a peer's death."""

import dataclasses
import json
import math
import os
import signal
import time

import pytest

from chaos.gangs import HEARTBEAT, Gang, children, write_recipe
from pretrainx.core.json_lines import read

pytestmark = [pytest.mark.chaos, pytest.mark.xdist_group("processes"), pytest.mark.timeout(400)]

STEPS, EVERY = 80, 20  # of the undisturbed run
SHORT = "--config.train.steps=6"  # the schedule is constant: its losses are the first six of the longer run


PICTURES = """\
from ml_collections import ConfigDict


def get_config(arg=""):
    config = ConfigDict()
    config.objective = dict(name="mae", decoder_width=8, decoder_depth=1, decoder_heads=2, augment=dict(name="none"))
    config.model = dict(name="vit", patch=4, width=16, depth=1, heads=2, positions="sincos", unroll=0)
    config.data = dict(name="images", source="shapes", size=16, channels=1, limit=240, held_out=0.2)
    config.schedule = dict(name="constant", peak=1e-2, warmup=0)
    config.precision = dict(params="float64", compute="float64")
    config.train = dict(steps=4, batch_size=8, log_every=1, eval_every=2)
    config.evals = dict(limit=16, representations=dict(knn_k=3, pictures=4, train_limit=64, limit=32))
    config.distributed = dict(heartbeat_seconds=5, wait_seconds=60)
    return config
"""


@pytest.mark.slow
@pytest.mark.rotated(alone=True)
def test_two_processes_look_at_pictures(tmp_path):
    """They train on pictures, measure features and draw samples; all figures are those of one process."""
    (tmp_path / "recipe.py").write_text(PICTURES)
    evaluated, drawn = [], []
    for processes in (1, 2):
        gang = Gang(tmp_path / "recipe.py", tmp_path / f"of-{processes}", tmp_path / "compiled")
        assert gang.start(processes, 4 // processes).wait() == [0] * processes, gang.output()
        records = [line for line in read(gang.workdir / "metrics.jsonl") if "eval/held_out/loss" in line]
        assert [record["step"] for record in records] == [2, 4]
        evaluated.append({name: value for name, value in records[-1].items() if name.startswith("eval/")})
        drawn.append({path.name for path in (gang.workdir / "samples").iterdir()})
    kinds = ("neighbours", "reconstruction")
    assert drawn[0] == drawn[1] == {f"{step:08d}-{kind}.png" for step in (2, 4) for kind in kinds}
    assert evaluated[0].keys() == evaluated[1].keys() and any("/knn/" in name for name in evaluated[0])
    assert all(math.isclose(value, evaluated[1][name], rel_tol=1e-4) for name, value in evaluated[0].items())


@pytest.fixture(scope="session")
def unbroken(tmp_path_factory):
    """One process with four devices."""
    directory = tmp_path_factory.mktemp("processes")
    gang = Gang(write_recipe(directory, STEPS, EVERY), directory / "one", tmp_path_factory.mktemp("compiled"))
    codes = gang.start(1, 4).wait()
    assert codes == [0] and len(gang.losses()) == STEPS, gang.output()
    return gang


@pytest.fixture
def gang(unbroken, tmp_path):
    return dataclasses.replace(unbroken, workdir=tmp_path / "run")


def difference(gang, unbroken):
    """The largest difference of a loss; every batch must be the same."""
    expected, found = unbroken.losses(), gang.losses()
    assert found and gang.hashes() == {step: unbroken.hashes()[step] for step in found}
    return max(abs(loss - expected[step]) for step, loss in found.items())


@pytest.mark.parametrize(
    "mesh",
    [
        pytest.param({"data": 4}, marks=[pytest.mark.slow, pytest.mark.rotated(alone=True)]),
        {"tensor": 4},  # every matrix lies across both processes
        pytest.param({"data": 2, "tensor": 2}, marks=[pytest.mark.slow, pytest.mark.rotated(alone=True)]),
        pytest.param({"fsdp": 4}, marks=[pytest.mark.slow, pytest.mark.rotated(alone=True)]),
        pytest.param({"data": 1, "fsdp": 2, "tensor": 2}, marks=[pytest.mark.slow, pytest.mark.rotated(alone=True)]),
    ],
    ids=lambda mesh: "-".join(f"{axis}{size}" for axis, size in mesh.items()),
)
def test_two_processes_are_one(mesh, gang, unbroken):
    mesh = {"data": 1} | mesh
    began = time.time()
    gang.finish(2, 2, SHORT, *(f"--config.mesh.{axis}={size}" for axis, size in mesh.items()))
    assert sorted(gang.losses()) == [1, 2, 3, 4, 5, 6]
    apart = difference(gang, unbroken)
    first = gang.events("first_step")[0]["time"] - began
    print(f"\n{mesh}: losses differ by {apart:.1e}, first step after {first:.1f} s")
    assert apart < 1e-9
    assert gang.events("start")[0]["devices"] == 4 and len(gang.events("start")) == 1
    log = gang.workdir / "process-1.log"
    assert not log.exists() or "error" not in log.read_text()
    assert json.loads((gang.workdir / "config.json").read_text())["mesh"]["tensor"] == mesh.get("tensor", 1)


@pytest.mark.slow
@pytest.mark.rotated(alone=True)
def test_a_signal_to_one_stops_both_and_either_number_of_processes_goes_on(gang, unbroken):
    """2 processes, then 1, then 2; each stopped by SIGTERM, to the second of two."""
    for processes, step in ((2, 8), (1, 30)):
        attempt = gang.start(processes, 4 // processes)
        attempt.until(lambda step=step: max(gang.losses(), default=0) >= step)
        attempt.processes[-1].send_signal(signal.SIGTERM)
        assert attempt.wait() == [75] * processes, gang.output()
        stopped = gang.events("signal")[-1]
        assert stopped["name"] == "SIGTERM" and stopped["step"] == gang.durable()[-1] == max(gang.losses())
    gang.finish(2, 2)
    assert [event["step"] for event in gang.events("resumed")] == [event["step"] for event in gang.events("signal")]
    apart = difference(gang, unbroken)
    print(f"\nstopped at {[event['step'] for event in gang.events('signal')]}: losses differ by {apart:.1e}")
    assert len(gang.losses()) == STEPS and apart < 1e-9


def test_processes_of_different_runs_are_refused(gang):
    attempt = gang.start(2, 1, each=(["--config.seed=1"], ["--config.seed=2"]))
    assert attempt.wait() == [2, 2], gang.output()
    assert gang.output().count("error: ") == 1 and "processes 1 differ from process 0" in gang.output()
    assert not gang.workdir.exists()


@pytest.mark.slow
@pytest.mark.rotated(alone=True)
def test_an_interrupt_of_one_is_an_interrupt_of_all(gang):
    attempt = gang.start(2, 2)
    attempt.until(lambda: max(gang.losses(), default=0) >= 5)
    attempt.processes[1].send_signal(signal.SIGINT)
    assert attempt.wait() == [130, 130], gang.output()
    assert gang.events("signal")[-1]["name"] == "SIGINT" and gang.durable()[-1] == max(gang.losses())
    assert gang.output().count("error: stopped by SIGINT") == 1, "process 0 tells it for all"


@pytest.mark.slow
@pytest.mark.rotated(alone=True)
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_peer_ends_the_other(victim, gang):
    attempt = gang.start(2, 2)
    attempt.until(lambda: max(gang.losses(), default=0) >= 3)
    attempt.processes[victim].send_signal(signal.SIGKILL)
    began = time.monotonic()
    codes = attempt.wait()
    seconds = time.monotonic() - began
    print(f"\nprocess {victim} killed: the other ended by {codes[1 - victim]} after {seconds:.1f} s")
    # The other hears of it by the heartbeat, and is aborted, or before that by its next sum over processes, an error.
    assert codes[victim] == -signal.SIGKILL and codes[1 - victim] in (-signal.SIGABRT, 1), gang.output()
    assert seconds < HEARTBEAT + 5


@pytest.mark.slow
@pytest.mark.rotated(alone=True)
def test_the_launcher_starts_a_killed_gang_again(gang, unbroken):
    attempt = gang.launch(2, 2)
    attempt.until(lambda: EVERY in gang.durable() and max(gang.losses()) > EVERY)
    os.kill(children(attempt.processes[0].pid)[1], signal.SIGKILL)
    assert attempt.wait() == [0], gang.output()
    assert len(gang.events("start")) == 2 and gang.events("resumed")[0]["step"] >= EVERY
    assert len(gang.losses()) == STEPS and difference(gang, unbroken) < 1e-9


@pytest.mark.slow
@pytest.mark.rotated(alone=True)
def test_a_damaged_step_is_passed_over_by_both(gang, unbroken):
    """A byte of the part that holds the parameters: process 0 sets the step aside, both go on from the one before."""
    gang.finish(2, 2, "--config.train.steps=40")
    files = (path for path in (gang.workdir / "checkpoints" / "40" / "state").rglob("*") if path.is_file())
    largest = max(files, key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 0x40
    largest.write_bytes(content)
    gang.finish(2, 2)
    assert gang.events("resumed")[0]["step"] == 20
    assert (gang.workdir / "checkpoints" / "40.corrupt").is_dir()
    assert len(gang.losses()) == STEPS and difference(gang, unbroken) < 1e-9
