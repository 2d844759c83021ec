"""The watchdog in real processes: stacks that name what blocks, then exit 7."""

import subprocess
import sys
import time

import pytest

from pretrainx.core.errors import HangError

PROGRAM = """
import sys, time
from pathlib import Path
from pretrainx.training.watchdog import Watchdog, WatchdogConfig
def blocks_for_ever():
    time.sleep(60)
config = WatchdogConfig(step=1.0, data=0.0, eval=30.0)
{body}
print("ended", flush=True)
"""


def run(tmp_path, body):
    started = time.monotonic()
    words = [sys.executable, "-c", PROGRAM.format(body=body), str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    return done, time.monotonic() - started


def test_a_blocked_phase(tmp_path):
    done, seconds = run(
        tmp_path,
        "with Watchdog(config, Path(sys.argv[1])) as watchdog:\n    watchdog.beat('step')\n    blocks_for_ever()",
    )
    assert done.returncode == HangError.exit_code == 7 and 1.0 < seconds < 20
    (stacks,) = tmp_path.glob("stacks-*.txt")
    assert "blocks_for_ever" in stacks.read_text() and "blocks_for_ever" in done.stderr
    block = done.stderr[done.stderr.index("error: ") :]
    assert "step has lasted" in block and "(exit 7)" in block and "config.watchdog.step is 1 seconds" in block
    assert [line.split()[0] for line in block.rstrip().split("\n")] == ["error:", "where", "why", "do"]
    assert block.rstrip().endswith("--config.watchdog.step=SECONDS (0: no limit)")


def test_a_disk_that_blocks_does_not_keep_it_alive(tmp_path):
    """The journal, the stacks' file and stderr may all hang with the disk."""
    done, _ = run(
        tmp_path,
        "with Watchdog(config, Path(sys.argv[1]), lambda *a, **k: time.sleep(60)) as watchdog:\n"
        "    watchdog.beat('step')\n    blocks_for_ever()",
    )
    assert done.returncode == 7 and "blocks_for_ever" in done.stderr


DISPATCHES = """\
import collections, functools
import jax, jax.numpy as jnp
from types import SimpleNamespace
from pretrainx.training.breakdown import Breakdown
from pretrainx.training.loop import Loop

@functools.partial(jax.jit, static_argnums=1)
def work(x, depth):
    for _ in range(depth):
        x = jnp.tanh(x @ x)
    return x

def seconds(depth):
    started = time.monotonic()
    work(start, depth).block_until_ready()
    return time.monotonic() - started

start = jnp.full((700, 700), 1e-3)
seconds(20)
depth = int(20 * 0.3 / min(seconds(20) for _ in range(3)))
seconds(depth)
with Watchdog(config, Path(sys.argv[1])) as watchdog:
    watchdog.beat('step')
    ahead = collections.deque([work(start, depth)])
    for _ in range(5):
        ahead.append(work(ahead[-1], depth))
    last, began = ahead[-1], time.monotonic()
    Loop.catch_up(SimpleNamespace(ahead=ahead, watchdog=watchdog, clock=Breakdown()))
    last.block_until_ready()
    print("waited", time.monotonic() - began)
"""


def test_steps_in_flight_are_not_one_step(tmp_path):
    """Six steps of 0.3 seconds are dispatched before any is waited for; the limit of one is 1.0."""
    done, _ = run(tmp_path, DISPATCHES)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[1]) > 1.2, "they were in flight together"


@pytest.mark.parametrize(
    "body",
    [
        "for _ in range(8):\n        watchdog.beat('step')\n        time.sleep(0.3)",  # slow, but it goes on
        "watchdog.beat('data')\n    time.sleep(1.5)",  # no limit
        "time.sleep(1.5)",  # before the first phase
        "watchdog.beat('step')\n    with watchdog.during('eval'):\n        time.sleep(1.5)\n    time.sleep(0.3)",
    ],
    ids=["beats", "no limit", "no phase", "inner phase"],
)
def test_what_it_lets_pass(tmp_path, body):
    done, _ = run(tmp_path, f"with Watchdog(config, Path(sys.argv[1])) as watchdog:\n    {body}\ntime.sleep(1.2)")
    assert done.returncode == 0 and "ended" in done.stdout, done.stderr
