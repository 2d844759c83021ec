"""A run that is stuck in its step, or waits for data for ever, ends by itself: exit 7, and the stacks name what blocks."""

import json
import os
import subprocess
import sys
import time

import pytest

from pretrainx.core.json_lines import read
from pretrainx.training.restore import steps_in

pytestmark = [pytest.mark.xdist_group("operate"), pytest.mark.chaos]

PROGRAM = """
import dataclasses, json, sys, time
import jax, jax.numpy as jnp
from pretrainx.cli.main import main
from pretrainx.data.rows import TrainingRows
from pretrainx.objectives.autoregressive import Autoregressive, AutoregressiveConfig
from pretrainx.runs import recipe

def blocks_in_the_step(step):
    if step >= 5:
        time.sleep(300)
    return step

def blocks_in_the_data(self, step):
    if step >= 5:
        time.sleep(300)
    return batch(self, step)

class Stuck(Autoregressive):
    def encode(self, params, extras, observation, keys, step, *, train):
        outcome = super().encode(params, extras, observation, keys, step, train=train)
        late = jax.pure_callback(blocks_in_the_step, jax.ShapeDtypeStruct((), jnp.int32), step)
        return outcome.replace(totals={"nll": outcome.totals["nll"] + jnp.where(late < 0, 1.0, 0.0)})

@dataclasses.dataclass(frozen=True)
class StuckConfig(AutoregressiveConfig):
    def build(self, *arguments, **more):
        whole = super().build(*arguments, **more)
        return Stuck(**{field.name: getattr(whole, field.name) for field in dataclasses.fields(whole)})

if sys.argv[1] == "step":
    recipe.OBJECTIVES["stuck"] = StuckConfig
else:
    batch, TrainingRows.batch = TrainingRows.batch, blocks_in_the_data
sys.exit(main(["train", f"--config={sys.argv[2]}", f"--workdir={sys.argv[3]}"]))
"""


@pytest.mark.parametrize("phase", ["step", pytest.param("data", marks=pytest.mark.slow)])
def test_a_stuck_run(phase, make_values, tmp_path):
    objective = {"name": "stuck"} if phase == "step" else {}
    values = make_values(watchdog={phase: 4.0}, objective=objective, checkpoint={"every": 2})
    (tmp_path / "config.json").write_text(json.dumps(values))
    env = os.environ | {"JAX_NUM_CPU_DEVICES": "1"}
    words = [sys.executable, "-c", PROGRAM, phase, str(tmp_path / "config.json"), str(tmp_path / "run")]
    started = time.monotonic()
    done = subprocess.run(words, capture_output=True, text=True, env=env, timeout=200)
    assert done.returncode == 7, done.stderr[-3000:]
    (stacks,) = (tmp_path / "run").glob("stacks-*.txt")
    assert f"blocks_in_the_{phase}" in stacks.read_text()
    assert f"the run hangs: {phase} has lasted" in done.stderr and "(exit 7)" in done.stderr
    hang = [event for event in read(tmp_path / "run" / "events.jsonl") if event["kind"] == "hang"]
    assert len(hang) == 1 and hang[0]["phase"] == phase and hang[0]["stacks"] == stacks.name
    first = next(event["time"] for event in read(tmp_path / "run" / "events.jsonl") if event["kind"] == "first_step")
    print(f"\n{phase}: {time.time() - first:.1f} s after the first step, {time.monotonic() - started:.1f} s in all")
    assert steps_in(tmp_path / "run" / "checkpoints")[-1] == 4  # what was saved before it is there to resume from
