"""A program that stands in for `pretrainx train`: it writes what a run writes, and ends as its config says, in milliseconds."""

import sys

from pretrainx.scaling.manifest import Manifest, Run

STEPS = 10
# What each start of a run does is a word of its config's `plot`, the last one for all further starts: an exit code; "signal",
# once two runs train, tells the queue to stop and waits to be told itself; "kill" dies by SIGKILL; "sleep" waits for SIGTERM.
SCRIPT = """\
import json, os, pathlib, signal, sys, time
words = dict(word.lstrip("-").split("=", 1) for word in sys.argv[2:])
config, place = json.loads(pathlib.Path(words["config"]).read_text()), pathlib.Path(words["workdir"])
place.mkdir(parents=True, exist_ok=True)
def note(name, **facts):
    with (place / name).open("a") as file:
        file.write(json.dumps(facts) + chr(10))
def stop(*_):
    note("events.jsonl", kind="signal")
    os._exit(75)
signal.signal(signal.SIGTERM, stop)
starts = len((place / "starts").read_text()) if (place / "starts").exists() else 0
with (place / "starts").open("a") as file:
    file.write("x")
action = config["plot"][min(starts, len(config["plot"]) - 1)]
note("events.jsonl", kind="start", cores=sorted(os.sched_getaffinity(0)))
steps, losses = config["train"]["steps"], config["losses"]
for number, loss in enumerate(losses):
    note("metrics.jsonl", **{"step": (number + 1) * steps // len(losses), "train/loss": loss, "perf/mfu": 0.25, "wall": 2.0})
if action == "signal":
    while len(list(place.parent.glob("*/metrics.jsonl"))) < 2:
        time.sleep(0.01)
    os.kill(os.getppid(), signal.SIGTERM)
if action == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
if action in ("signal", "sleep"):
    time.sleep(30)
    os._exit(99)
if action == 0:
    note("metrics.jsonl", **{"step": steps, "eval/held_out/loss": losses[-1] + 0.5, "eval/held_out/loss_error": 0.01})
    note("events.jsonl", kind="done", step=steps, wall=3.0)
else:
    print(f"error: it went wrong in start {starts}  (exit {action})\\n  where here\\n  why   so it is")
sys.exit(action)
"""


def run(name, plot=(0,), losses=(3.0, 2.0, 1.0), **facts):
    """A run of a study whose starts do what `plot` says."""
    config = {
        "seed": 3,
        "objective": {"name": "autoregressive"},
        "schedule": {"peak": 0.1},
        "train": {"steps": STEPS, "batch_size": 4},
        "guard": {"patience": 5},
        "plot": list(plot),
        "losses": list(losses),
    }
    known = {
        "parameters": {"total": 1000, "hidden": 600},
        "counted": "total",
        "tokens": 5e3,
        "flops": 3e7,
        "flops_6nd": 3e7,
    }
    return Run(
        name,
        {},
        config,
        {**known, "budget": 3e7, "convention": "model", "unit": "token", "unique_tokens": 4e3, **facts},
    )


def study(directory, *runs, **section):
    """Writes the study of these runs, and the program; returns the words that start it."""
    Manifest("isoflop", section, {}, runs).write(directory)
    path = directory / "fake.py"
    path.write_text(SCRIPT)
    return (sys.executable, "-S", str(path))
