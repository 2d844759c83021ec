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
    assert block.rstrip().split("\n")[-1].startswith("  do") or "--config.watchdog.step=SECONDS" in block


def test_a_disk_that_blocks_does_not_keep_it_alive(tmp_path):
    """The journal, the stacks' file and stderr may all hang with the disk."""
    done, _ = run(
        tmp_path,
        "with Watchdog(config, Path(sys.argv[1]), lambda *a, **k: time.sleep(60)) as watchdog:\n"
        "    watchdog.beat('step')\n    blocks_for_ever()",
    )
    assert done.returncode == 7 and "blocks_for_ever" in done.stderr


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
