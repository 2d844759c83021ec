"""Two processes, one run: what is refused is said once, a dry run is one too, and no process outlives one that is stuck."""

import signal
import subprocess
import time

import pytest

from chaos.gangs import HEARTBEAT, Gang, write_recipe
from pretrainx.core.errors import HangError

pytestmark = [pytest.mark.chaos, pytest.mark.xdist_group("processes"), pytest.mark.timeout(400)]

ASLEEP = """
import os, sys, time
from pretrainx.cli.main import main
from pretrainx.training.step import TrainStep

def falls_asleep(self, state, batch):
    if os.environ["PRETRAINX_PROCESS"] == "1" and int(state.step) == 5:
        time.sleep(300)
    return step(self, state, batch)

step, TrainStep.__call__ = TrainStep.__call__, falls_asleep
sys.exit(main(sys.argv[1:]))
"""


class AsleepGang(Gang):
    """The same command, but process 1 falls asleep inside a step; its threads go on, and with them its heartbeat."""

    def words(self, *more):
        python, _, _, *words = super().words(*more)
        return [python, "-c", ASLEEP, *words]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return write_recipe(tmp_path_factory.mktemp("recipe"), steps=200, every=50)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture
def gang(recipe, compiled, tmp_path):
    return Gang(recipe, tmp_path / "run", compiled)


def test_what_all_refuse_is_said_once(gang):
    assert gang.start(2, 1, "--config.train.batch_size=7").wait() == [2, 2], gang.output()
    assert gang.output().count("error: ") == 1 and not gang.workdir.exists()


@pytest.mark.slow
def test_a_dry_run_of_two(gang):
    assert gang.start(2, 1, "--dry_run").wait() == [0, 0], gang.output()
    assert gang.output().count("dry run: nothing was trained") == 1 and not gang.workdir.exists()
    assert gang.start(2, 1, "--dry_run", each=(["--allow_change=data"], [])).wait() == [2, 2], gang.output()


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_stopped_peer_ends_both(victim, gang):
    """SIGSTOP: the heartbeat stops too. The other aborts; the stopped one, where it ever goes on, finds itself alone."""
    attempt = gang.start(2, 1)
    attempt.until(lambda: max(gang.losses(), default=0) >= 3)
    stopped, other = attempt.processes[victim], attempt.processes[1 - victim]
    stopped.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    try:
        code = other.wait(60)
        seconds = time.monotonic() - began
        stopped.send_signal(signal.SIGCONT)
        last = stopped.wait(60)
    except subprocess.TimeoutExpired:
        pytest.fail(f"a process outlives its peer:\n{gang.output()}")
    finally:
        attempt.kill()
    print(f"\nprocess {victim} stopped: the other ended by {code} after {seconds:.1f} s, it by {last} once it went on")
    assert code == -signal.SIGABRT and seconds < HEARTBEAT + 10 and last != 0


@pytest.mark.slow
def test_a_peer_that_sleeps_inside_a_step_ends_both(recipe, compiled, tmp_path):
    """The heartbeat goes on, so only the watchdogs notice: of the one that sleeps, and of the one that waits for it."""
    gang = AsleepGang(recipe, tmp_path / "run", compiled)
    began = time.monotonic()
    codes = gang.start(2, 1, "--config.watchdog.step=6.0").wait()
    print(f"\nexit codes {codes}, {time.monotonic() - began:.1f} s in all")
    assert HangError.exit_code in codes and 0 not in codes, gang.output()
    stacks = "".join(path.read_text() for path in gang.workdir.glob("stacks-*.txt"))
    assert "falls_asleep" in stacks and "settled" in stacks and max(gang.losses()) == 5
