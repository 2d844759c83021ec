"""Damaged checkpoints: every flipped bit, every lost or cut file is noticed or does no harm; none is silently wrong."""

import contextlib
import dataclasses
import random
import shutil
import subprocess

import jax
import numpy as np
import pytest

from chaos.runs import LIMIT, STEPS, Run, block_of, differing, write_recipe
from contract import cases
from pretrainx.core import paths
from pretrainx.core.errors import CheckpointError
from pretrainx.models.decoder import Decoder
from pretrainx.models.layers import Precision
from pretrainx.training import restore
from pretrainx.training import state as states
from pretrainx.training.checkpoint import Checkpoints
from toys.moco import Moco

pytestmark = [pytest.mark.chaos, pytest.mark.xdist_group("chaos")]


@dataclasses.dataclass
class Saved:
    """A step on disk, and the same state as it was in memory: {path: bytes}."""

    directory: object
    step: int
    like: object
    optimizer: object
    leaves: dict

    def files(self):
        """Every file of the step with its size, those of array data first."""
        found = [path for path in (self.directory / str(self.step)).rglob("*") if path.is_file()]
        return sorted(found, key=lambda path: (path.parent.name != "d", str(path)))

    def outcome(self):
        """ "detected", or "harmless" where every leaf comes back bit for bit; anything else is "wrong"."""
        try:
            found = restore.restore_step(self.directory, self.step, self.like, jax.jit(self.optimizer.init))
        except CheckpointError as error:
            assert str(self.directory) in error.where and error.why
            return "detected"
        return "harmless" if contents(found.state) == self.leaves else "wrong"


def contents(state):
    return {path: np.asarray(leaf).tobytes() for path, leaf in paths.leaves(restore.as_tree(state))}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Two steps of an objective that has every kind of state: moments, averages, a teacher, a queue, guard counters."""
    precision = Precision("float32", "float32")
    model = Decoder(cases.CONFIG, cases.VOCABULARY.size, 2 * cases.LENGTH, precision)
    run = cases.prepare("moco", objective=Moco(model, cases.VOCABULARY, cases.LENGTH))
    state = run.state
    for seed in range(2):
        state, _ = run.step(state, run.place(cases.make_batch(run.objective, seed=seed)))
    directory = tmp_path_factory.mktemp("damage") / "checkpoints"
    checkpoints = Checkpoints(directory, keep=1)
    checkpoints.save(state, {})
    checkpoints.close()
    like = states.abstract(run.objective, run.optimizer, run.options, run.found)
    whole = Saved(directory, 2, like, run.optimizer, contents(state))
    assert whole.outcome() == "harmless"
    return whole


def flip(path, rng):
    """Flips one bit and returns the function that flips it back."""
    position, bit = rng.randrange(path.stat().st_size), 1 << rng.randrange(8)

    def once():
        with path.open("r+b") as stream:
            stream.seek(position)
            byte = stream.read(1)[0]
            stream.seek(position)
            stream.write(bytes([byte ^ bit]))

    once()
    return once


def flips(saved, files, count, seed):
    rng, counts = random.Random(seed), {"detected": 0, "harmless": 0, "wrong": 0}
    sizes = [path.stat().st_size for path in files]
    for _ in range(count):
        back = flip(rng.choices(files, weights=sizes)[0], rng)
        counts[saved.outcome()] += 1
        back()
    print(f"\nseed {seed}, {count} flipped bits in {len(files)} files of {sum(sizes)} bytes: {counts}")
    return counts


def test_flipped_bits_in_array_data(saved):
    data = [path for path in saved.files() if path.parent.name == "d"]
    counts = flips(saved, data, 24, seed=1)
    assert counts["wrong"] == 0
    assert counts["detected"] >= 12  # else the bits fell where nothing is


@pytest.mark.slow
@pytest.mark.rotated(alone=True)
def test_many_flipped_bits_in_array_data(saved):
    counts = flips(saved, [path for path in saved.files() if path.parent.name == "d"], 300, seed=2)
    assert counts["wrong"] == 0 and counts["detected"] >= 150


@pytest.mark.slow
@pytest.mark.rotated(alone=True)
def test_flipped_bits_in_every_other_file(saved):
    """Manifests, trees of names, sharding, the meta record."""
    for path in saved.files():
        if path.parent.name != "d" and path.stat().st_size:
            assert flips(saved, [path], 8, seed=3)["wrong"] == 0, path


@pytest.mark.parametrize(
    "damage",
    [
        "deleted",
        *(
            pytest.param(how, marks=[pytest.mark.slow, pytest.mark.rotated(alone=True)])
            for how in ("halved", "emptied")
        ),
    ],
)
def test_no_file_is_lost_or_cut_unnoticed(saved, damage):
    counts = {"detected": 0, "harmless": 0, "wrong": 0}
    needed = max(saved.files(), key=lambda path: path.stat().st_size), saved.directory / "2" / "meta" / "metadata"
    for path in saved.files():
        content = path.read_bytes()
        if damage == "deleted":
            path.unlink()
        else:
            path.write_bytes(content[: len(content) // 2] if damage == "halved" else b"")
        outcome = saved.outcome()
        path.write_bytes(content)
        counts[outcome] += 1
        assert outcome == "detected" or path not in needed, path
    print(f"\nfiles {damage}: {counts}")
    assert counts["wrong"] == 0


def damage_newest_data(workdir, step, seed=0):
    """Flips bits of a step's largest data file, many: which single one matters is the business of the tests above."""
    files = [path for path in (workdir / "checkpoints" / str(step)).rglob("d/*") if path.is_file()]
    largest, rng = max(files, key=lambda path: path.stat().st_size), random.Random(seed)
    for _ in range(20):
        flip(largest, rng)
    return largest


def as_left_at(unbroken, workdir, drop):
    """The unbroken run's workdir as it would be, had it been stopped before its steps `drop` were saved."""
    shutil.copytree(unbroken.workdir, workdir)
    for step in drop:
        shutil.rmtree(workdir / "checkpoints" / str(step))
    return dataclasses.replace(unbroken, workdir=workdir)


def test_the_command_falls_back_to_the_step_before(unbroken, tmp_path):
    run = as_left_at(unbroken, tmp_path / "run", drop=[STEPS])
    before, newest = run.durable()[-2:]
    damage_newest_data(run.workdir, newest)
    attempt = run.finish()
    assert f"resumed from step {before}" in attempt.stdout() and attempt.logged()[0] == before + 1
    assert (run.workdir / "checkpoints" / f"{newest}.corrupt" / "state").is_dir()
    told = [event for event in attempt.events() if event["kind"] == "warning" and event.get("step") == newest]
    assert len(told) == 1 and f"checkpoints/{newest}" in told[0]["text"]
    assert differing(unbroken, run)[1] == []
    assert run.checksums(STEPS) == unbroken.checksums(STEPS)


def test_the_command_refuses_when_nothing_is_whole(unbroken, tmp_path):
    run = as_left_at(unbroken, tmp_path / "run", drop=[])
    steps, metrics = run.durable(), (run.workdir / "metrics.jsonl").read_bytes()
    for step in steps:
        damage_newest_data(run.workdir, step)
    attempt = run.start()
    assert attempt.wait() == CheckpointError.exit_code
    block = block_of(attempt.stderr())
    assert f"checkpoints/{steps[0]}" in block and "no checkpoint is usable" in block and "--workdir" in block
    assert "Traceback" not in block
    # Set aside, not deleted, and the run so far is not overwritten by one that starts afresh.
    assert all((run.workdir / "checkpoints" / f"{step}.corrupt" / "state").is_dir() for step in steps)
    assert (run.workdir / "metrics.jsonl").read_bytes() == metrics


@contextlib.contextmanager
def small_disk(path, size):
    """A tmpfs of so many bytes; the test is skipped where mounting is not allowed."""
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", path], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"a small disk needs the right to mount: {mounted.stderr.strip()}")
    try:
        yield lambda size: subprocess.run(["mount", "-o", f"remount,size={size}", path], check=True, timeout=LIMIT)
    finally:
        subprocess.run(["umount", "-l", path], check=True)


@pytest.mark.slow
@pytest.mark.rotated(alone=True)
@pytest.mark.parametrize("room", [1.5, 2.5])
def test_full_disk(unbroken, compiled, tmp_path, room):
    """Room for the data and so many checkpoints, and all of them are to be kept: the disk fills up in mid-run."""
    whole = tmp_path / "whole"
    run = Run(write_recipe(whole, STEPS, every=5, eval_every=20, keep=20), whole / "run", compiled)
    run.finish()
    one = sum(path.stat().st_blocks * 512 for path in (run.workdir / "checkpoints" / "5").rglob("*"))
    other = sum(path.stat().st_blocks * 512 for path in (run.workdir / "data").rglob("*"))
    with small_disk(tmp_path / "disk", int(other + room * one)) as resize:
        tight = dataclasses.replace(run, workdir=tmp_path / "disk")  # its own log lies outside
        attempt = tight.start()
        code = attempt.wait()
        kept = tight.durable()
        print(f"\nroom for {room} checkpoints: exit {code}, steps {kept} durable, logged up to {attempt.logged()[-1]}")
        assert code == CheckpointError.exit_code, attempt.stderr()[-2000:]
        block = block_of(attempt.stderr())
        assert f"the last good step is {kept[-1]}" in block and "make room" in block
        assert kept and tight.checksums(kept[-1]) == run.checksums(kept[-1])
        resize("64m")
        again = tight.finish()
        assert again.logged()[0] == kept[-1] + 1
        assert tight.checksums(STEPS) == run.checksums(STEPS)
