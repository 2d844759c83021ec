"""How a run stands, from files alone; what is collected of it; what a person is shown."""

import csv
import errno
import math
import os
import shlex
import shutil
import subprocess
import sys

import pytest

import pretrainx.cli.main as command_line
from pretrainx.core.errors import ConfigError
from pretrainx.core.json_lines import encode, read
from pretrainx.runs.recipe import OBJECTIVES
from pretrainx.scaling import claims, collect, commands, live, manifest, status, workplaces
from pretrainx.scaling.status import DIVERGED, DONE, FAILED, RUNNING, STOPPED, WAITING, Standing
from scaling import fake_runs

DONE_EVENT = {"kind": "done", "step": fake_runs.STEPS, "wall": 9.0}


def leave(directory, run, metrics=(), events=()):
    """What a run wrote."""
    workdir = manifest.workdir(directory, run)
    workdir.mkdir(parents=True, exist_ok=True)
    for name, records in (("metrics", metrics), ("events", events)):
        (workdir / f"{name}.jsonl").write_text("".join(encode(record) + "\n" for record in records))


def logged(*losses):
    return [{"step": step, "train/loss": loss} for step, loss in enumerate(losses, 1)]


SKIPPED = {"kind": "skipped", "step": 7, "in_a_row": 5, "in_all": 9}
CASES = [
    ([], [], WAITING, ""),
    (logged(3, 2), [{"kind": "start"}], STOPPED, ""),
    (logged(3, 2), [{"kind": "start"}, DONE_EVENT], DONE, ""),
    (logged(3, 2), [{"kind": "start"}, {**DONE_EVENT, "step": 5}], STOPPED, ""),  # more steps were planned since
    (logged(3, 2), [DONE_EVENT, {"kind": "start"}], STOPPED, ""),
    (logged(3, math.nan), [DONE_EVENT], DIVERGED, "ends at nan"),
    (logged(3, 2, 3.5), [DONE_EVENT], DONE, ""),  # too few to tell a rise from noise
    (logged(3, 2, 2, 9, 9, 9), [DONE_EVENT], DIVERGED, "ends at 9, above 3"),
    (logged(3, 2, 2, 2, 2, 9), [DONE_EVENT], DONE, ""),  # one batch
    (logged(3, 3, 3, 3, 3.05, 3.05, 3.05), [DONE_EVENT], DONE, ""),  # nothing learned is nothing lost
    (logged(3), [SKIPPED, {"kind": "seconds"}], DIVERGED, "5 steps in a row could not be taken, up to step 7"),
    (logged(3), [{**SKIPPED, "in_a_row": 4}, {"kind": "seconds"}], STOPPED, ""),
]


@pytest.mark.parametrize("metrics, events, state, why", CASES)
def test_how_a_run_stands(tmp_path, metrics, events, state, why):
    run = fake_runs.run("one")
    leave(tmp_path, run, metrics, events)
    found = status.standing(tmp_path, run)
    assert found.state == state and why in found.why and (found.step, found.steps) == (len(metrics), fake_runs.STEPS)


def test_a_rise_is_no_divergence_where_the_target_moves_or_the_held_out_loss_fell():
    up, by = (3, 2, 2, 9, 9, 9), lambda name: {"objective": {"name": name}}
    assert set(status.FIXED) < set(OBJECTIVES)
    for name in ("byol", "moco", "dino", "dvae"):
        assert status.divergence(up, by(name)) == ""
        assert "ends at nan" in status.divergence((3, math.nan), by(name))
    for held_out, diverged in (((), 1), ((8.0,), 1), ((4.0, 8.0), 1), ((4.0, math.nan), 1), ((4.0, 3.5), 0)):
        assert bool(status.divergence(up, by("mae"), held_out)) == diverged, held_out


def test_an_old_failure_is_none_and_an_old_divergence_stays(tmp_path):
    run = fake_runs.run("one")
    leave(tmp_path, run, logged(3), [{"kind": "start"}])
    for state, later in ((FAILED, STOPPED), (DIVERGED, DIVERGED)):
        status.Verdict(state, 1, 3, "why", "0.1", time=100.0).write(tmp_path, run)
        assert [status.standing(tmp_path, run, since).state for since in (99.0, 101.0)] == [state, later]
    leave(tmp_path, run, logged(3), [DONE_EVENT])  # somebody trained it to its end
    assert status.standing(tmp_path, run).state == DONE


def test_the_tidy_table(tmp_path):
    """The loss is that of the last step alone; a curve has what was read and cost by each evaluation."""
    runs = [fake_runs.run("whole"), fake_runs.run("half"), fake_runs.run("none", unique_tokens=None)]
    fake_runs.study(tmp_path, *runs)
    evaluation = lambda step, loss: {
        "step": step, "eval/held_out/loss": loss, "eval/held_out/loss_error": 0.01, "eval/held_out/bits_per_byte": loss / 2
    }  # fmt: skip
    speeds = [{"step": step, "perf/mfu": mfu, "wall": 1.0} for step, mfu in ((2, 0.5), (3, 0.2), (4, 0.3))]
    leave(tmp_path, runs[0], [*logged(3, 2), *speeds, evaluation(5, 2.5), evaluation(10, 2.25)], [DONE_EVENT])
    leave(tmp_path, runs[1], [*logged(3, 2), evaluation(5, 2.75)], [{"kind": "start"}])
    rows = collect.collect(tmp_path, {"half": Standing(RUNNING, 5, fake_runs.STEPS)})
    assert [(row["run"], row["status"], row["loss"]) for row in rows] == [
        ("whole", DONE, 2.25), ("half", RUNNING, None), ("none", WAITING, None)
    ]  # fmt: skip
    whole = rows[0]
    expected = {
        "objective": "autoregressive", "seed": 3, "budget": 3e7, "parameters": 1000, "parameters_hidden": 600,
        "parameters_active": None, "tokens": 5e3, "unique_tokens": 4e3, "flops": 3e7, "convention": "model", "mfu": 0.3,
        "loss_error": 0.01, "bits_per_byte": 1.125, "learning_rate": 0.1, "batch_size": 4, "steps": 10, "seconds": 9.0,
        "counted": "total",
    }  # fmt: skip
    assert {name: whole[name] for name in expected} == expected
    assert whole["config"] == manifest.identity(runs[0].config)
    assert read(tmp_path / "results.jsonl") == rows
    with (tmp_path / "results.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [row["loss"] for row in table] == ["2.25", "", ""] and list(table[0]) == list(collect.COLUMNS)
    curves = read(tmp_path / "curves.jsonl")
    assert [(row["run"], row["steps"], row["tokens"], row["unique_tokens"], row["flops"], row["loss"]) for row in curves] == [
        ("whole", 5, 2500.0, 2500.0, 1.5e7, 2.5), ("whole", 10, 5e3, 4e3, 3e7, 2.25), ("half", 5, 2500.0, 2500.0, 1.5e7, 2.75)
    ]  # fmt: skip


def test_another_metric_is_the_loss_where_the_study_says_so(tmp_path):
    run = fake_runs.run("one")
    fake_runs.study(tmp_path, run, metric="held_out/term/nll")
    evaluations = {"eval/held_out/loss": 9.0, "eval/held_out/loss_error": 0.5, "eval/held_out/term/nll": 2.0}
    evaluations["eval/held_out/bits_per_byte"] = 1.5
    leave(tmp_path, run, [{"step": fake_runs.STEPS, **evaluations}], [DONE_EVENT])
    row = collect.collect(tmp_path)[0]
    assert (row["loss"], row["loss_error"], row["bits_per_byte"]) == (2.0, None, 1.5)
    assert collect.lacks(tmp_path, manifest.read(tmp_path), run) == ""
    fake_runs.study(tmp_path, run, metric="held_out/term/nil")
    said = collect.lacks(tmp_path, manifest.read(tmp_path), run)
    assert (
        "no held_out/term/nil" in said
        and "evaluated were: held_out/bits_per_byte, held_out/loss, held_out/term/nll" in said
    )


def test_the_results_are_what_a_fit_reads(tmp_path):
    from pretrainx.scaling.read_table import read_results

    runs = [fake_runs.run("one"), fake_runs.run("other")]
    fake_runs.study(tmp_path, *runs)
    leave(tmp_path, runs[0], [{"step": fake_runs.STEPS, "eval/held_out/loss": 2.0}], [DONE_EVENT])
    collect.collect(tmp_path)
    table = read_results(tmp_path)
    assert table.runs == ("one",) and table.loss.tolist() == [2.0] and table.flops.tolist() == [3e7]


def test_what_is_shown():
    """Of many runs those that matter now; the work done is weighed by FLOPs; only lines are cleared, never the screen."""
    runs = [fake_runs.run(f"run{number}", flops=flops) for number, flops in enumerate((1e6, 1e6, 8e6))]
    study = manifest.Manifest("isoflop", {}, {}, tuple(runs))
    standings = {
        "run0": Standing(DONE, 10, 10, 2.0),
        "run1": Standing(WAITING, 0, 10),
        "run2": Standing(RUNNING, 5, 10, 3.0),
    }
    lines = live.table(runs, standings, rows=3)
    assert lines[0].split() == ["run", "budget", "N", "D", "status", "loss"] and len(lines) == 3
    assert [line.split()[0] for line in lines[1:]] == ["run1", "run2"]
    assert lines[2].split() == ["run2", "3e+07", "1.0k", "5.0k", "running", "5/10", "3.0000"]
    shown = live.Live(study, terminal=False)
    assert shown.done(standings) == pytest.approx(0.5)
    shown.before, shown.began = 0.0, shown.began - 60
    assert "1 done, 1 running, 1 waiting; 50.0% of the work, 1m00s, eta 1m00s" == shown.summary(standings)
    assert live.redrawn(["a", "b", "c"], ["d", "e"]) == "\x1b[3A\r\x1b[Kd\n\x1b[Ke\n\x1b[J"


def test_a_share_of_the_cores_or_a_gpu(monkeypatch):
    cores = lambda workers, there: [place.cores for place in workplaces.of_cores(workers, there)]
    assert cores(2, range(5)) == [(0, 1), (2, 3, 4)] and cores(3, (4, 6)) == [(4,), (4,), (6,)]
    given = [place.environment["CUDA_VISIBLE_DEVICES"] for place in workplaces.of_gpus(0, ["2", "5"])]
    assert given == ["2", "5"]
    with pytest.raises(ConfigError, match="fewer GPUs than workers"):
        workplaces.of_gpus(3, ["2", "5"])
    monkeypatch.setattr(workplaces, "accelerators", lambda: ("tpu", []))
    with pytest.raises(ConfigError, match="one process takes all TPU chips"):
        workplaces.workplaces(2)
    assert workplaces.workplaces(0) == (workplaces.Workplace(),)


def test_commands_for_other_machines(tmp_path):
    """Runs that are done or claimed are left out; the array's script is sound, has a task for each that is left, and ends where
    another process has the run."""
    runs = [fake_runs.run(name) for name in ("first", "second", "third", "claimed")]
    directory = tmp_path / "a study"
    fake_runs.study(directory, *runs)
    leave(directory, runs[0], logged(3, 2), [DONE_EVENT])
    held = claims.claim(claims.lock_path(directory, runs[3]))
    words = [
        f"'{directory}/runs/{name}.lock' pretrainx train '--config={directory}/configs/{name}.json' "
        f"'--workdir={directory}/runs/{name}'"
        for name in ("second", "third")
    ]
    under_lock = "python -m pretrainx.scaling.claims"
    assert commands.printed("commands", directory).splitlines() == [f"{under_lock} {line}" for line in words]
    printed = commands.printed("ray", directory)
    assert "ray_job.py" in printed and printed.endswith(f"-- {under_lock}")
    assert (directory / "runs.txt").read_text().splitlines() == words
    script = tmp_path / "sweep.sbatch"
    script.write_text(commands.printed("slurm", directory))
    assert "#SBATCH --array=0-1\n" in script.read_text()
    environment = {**os.environ, "SLURM_ARRAY_TASK_ID": "1", "PRINT": "1"}
    submit = lambda: subprocess.run(["bash", script], env=environment, capture_output=True, text=True)
    ended = submit()
    third = ["pretrainx", "train", f"--config={directory}/configs/third.json", f"--workdir={directory}/runs/third"]
    assert ended.returncode == 0 and shlex.split(ended.stdout)[-4:] == third
    if shutil.which("flock"):
        other = claims.claim(claims.lock_path(directory, runs[2]))
        ended = submit()
        assert ended.returncode == 1 and "another process trains" in ended.stderr and not ended.stdout
        other.release()
    held.release()
    for run in runs:
        leave(directory, run, logged(3, 2), [DONE_EVENT])
    assert {commands.printed(kind, directory)[:20] for kind in commands.KINDS} == {"# nothing is left of"}
    if checker := shutil.which("shellcheck"):
        said = subprocess.run([checker, "--severity=style", script], capture_output=True, text=True)
        assert said.returncode == 0, said.stdout


def test_a_command_under_a_lock(tmp_path):
    """The command takes the place of the program, which holds the lock; a second one is not started."""
    path = tmp_path / "runs" / "a.lock"
    look = f"from pretrainx.scaling import claims; from pathlib import Path; print(claims.taken(Path({str(path)!r})))"
    run = lambda: subprocess.run(
        [sys.executable, "-m", "pretrainx.scaling.claims", path, sys.executable, "-c", look],
        capture_output=True,
        text=True,
    )
    ended = run()
    assert (ended.returncode, ended.stdout) == (0, "True\n"), ended.stderr
    held = claims.claim(path)
    assert run().returncode == 1
    held.release()
    assert not claims.taken(path)


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    def refuse(number):
        def flock(*_):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(claims.fcntl, "flock", flock)

    for number in (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS):
        refuse(number)
        claims.claim(tmp_path / "a.lock").release()
    refuse(errno.EIO)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        claims.claim(tmp_path / "a.lock")


def test_collecting_alone(tmp_path, capsys):
    """Runs that were trained elsewhere stand in the table without a queue."""
    runs = [fake_runs.run("one"), fake_runs.run("other")]
    fake_runs.study(tmp_path, *runs)
    leave(tmp_path, runs[0], [{"step": fake_runs.STEPS, "eval/held_out/loss": 2.0}], [DONE_EVENT])
    words = ["scaling", "run", f"--workdir={tmp_path}", "--collect"]
    assert command_line.main(words) == 0 and "results.csv: 1 done, 1 waiting" in capsys.readouterr().out
    assert read(tmp_path / "results.jsonl")[0]["loss"] == 2.0 and not (tmp_path / "runs" / "other").exists()
    assert command_line.main([*words, "--workers=2"]) == 2 and "--workers and --collect" in capsys.readouterr().err
