"""A fleet of runs: with a stand-in for Ray that runs tasks at once, and with Ray where it is installed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "launch" / "ray_job.py"
# Only what the script uses. Options of tasks are noted.
RAY = """\
import json, os
class exceptions:
    class RayError(Exception): pass
def init(**options): pass
def shutdown(): pass
def remote(**options):
    with open(os.environ["PLACE"] + "/options.json", "w") as file: json.dump(options, file)
    class Task:
        def __init__(self, function): self.remote = lambda *words: Result(function(*words))
    return Task
class Result:
    def __init__(self, code): self.code = code
def wait(results): return results[:1], results[1:]
def get(result):
    if result.code == 99: raise exceptions.RayError("the node is gone")
    return result.code
"""
BODY = """\
import os, pathlib, signal, sys
workdir = pathlib.Path(next(word for word in sys.argv if word.startswith("--workdir="))[10:])
workdir.mkdir(exist_ok=True)
starts = len(list(workdir.glob("start-*")))
(workdir / f"start-{starts}").touch()
print("hello", sys.argv[1:])
code = next((int(word[7:]) for word in sys.argv if word.startswith("--code=")), 0)
if code == 0:
    (workdir / "events.jsonl").write_text('{"kind": "start"}\\n{"kind": "done"}\\n')
if code == 75 and not starts:  # as after a signal to the launcher, which then starts nothing again
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.kill(os.getppid(), signal.SIGTERM)
    sys.exit(75)
sys.exit(0 if code == 75 else code)
"""


@pytest.fixture
def place(tmp_path):
    (tmp_path / "ray.py").write_text(RAY)
    return tmp_path


def launch(place, lines, *options, command=None, python=sys.executable, path=True):
    (place / "runs.txt").write_text("# runs\n" + "".join(f"--workdir={place}/{line}\n" for line in lines))
    command = command or [python, "-c", BODY]
    words = [python, SCRIPT, f"--runs={place}/runs.txt", *options, "--", *command]
    env = os.environ | {"PLACE": str(place)} | ({"PYTHONPATH": str(place)} if path else {})
    done = subprocess.run(words, env=env, capture_output=True, text=True, cwd=place, timeout=300)
    return done.returncode, done.stdout, done.stderr


def starts(place, run):
    return len(list((place / run).glob("start-*")))


def test_print_shows_the_runs_without_ray(place):
    (place / "ray.py").write_text("raise ImportError")
    (place / "b").mkdir()
    (place / "b" / "events.jsonl").write_text(json.dumps({"kind": "done"}) + "\n")
    code, out, err = launch(
        place, ["a --x='1 2'", "b"], "--gpus=8", "--resource=big:1", "--print", command=["pretrainx", "train"]
    )
    assert (code, err) == (0, "")
    assert out == (
        f"each takes num_cpus=1, num_gpus=8, big=1\npretrainx train --workdir={place}/a '--x=1 2'\n"
        f"done: pretrainx train --workdir={place}/b\n"
    )
    code, _, err = launch(place, ["a"], command=["pretrainx", "train"])
    assert code == 2 and err == 'launch: Ray is not installed: pip install "pretrainx[ray]"\n'


def test_runs_are_given_out_again_when_preempted_and_skipped_when_done(place):
    code, _, err = launch(place, ["a", "b --code=75", "c"], "--cpus=2", "--tpus=4", "--restarts=0")
    assert code == 0 and [starts(place, run) for run in "abc"] == [1, 2, 1]
    assert f"{place}/b was preempted and is given out again" in err and "(3 of 3" in err
    assert "hello" in (place / "a.log").read_text()
    noted = json.loads((place / "options.json").read_text())
    assert noted == {"num_cpus": 2, "num_gpus": 0, "resources": {"TPU": 4}, "max_retries": 0}
    assert launch(place, ["a", "c"])[0] == 0 and starts(place, "a") == 1
    assert launch(place, ["a"], "--again")[0] == 0 and starts(place, "a") == 2


def test_the_first_failure_by_line_is_the_exit_code(place):
    code, _, err = launch(place, ["a", "b --code=3", "c --code=2"])
    assert code == 3 and starts(place, "a") == starts(place, "c") == 1 and "c ended by 2" in err
    code, _, err = launch(place, ["d --code=99"])
    assert code == 1 and "the node is gone" in err


@pytest.mark.parametrize("case", ["no runs", "no workdir", "twice", "no command", "resource"])
def test_bad_command_lines(place, case):
    lines = {"no runs": "", "no workdir": "--x=1\n", "twice": "--workdir=a\n--workdir=a\n"}.get(case, "--workdir=a\n")
    (place / "runs.txt").write_text(lines)
    words = ["--runs=runs.txt", *(["--resource=x"] if case == "resource" else [])] + (
        [] if case == "no command" else ["--", "true"]
    )
    done = subprocess.run([sys.executable, SCRIPT, *words], capture_output=True, text=True, cwd=place)
    assert done.returncode == 2 and "usage" in done.stderr


@pytest.mark.slow
def test_with_ray_itself(place):
    """Two runs at once on a cluster of this host; the second time both are done."""
    pytest.importorskip("ray", reason='needs Ray: pip install -e ".[ray]"')
    (place / "ray.py").unlink()
    code, _, err = launch(place, ["a", "b"], path=False)
    assert code == 0 and starts(place, "a") == starts(place, "b") == 1, err
    assert launch(place, ["a", "b"], path=False)[0] == 0 and starts(place, "a") == 1
