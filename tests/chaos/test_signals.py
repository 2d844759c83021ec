"""Preemption: a signal at any moment ends the run with a saved state, and the same command goes on as if nothing had been."""

import signal
import time

import pytest

from chaos.runs import EVAL_EVERY, EVERY, STEPS, block_of, differing
from pretrainx.core.errors import Interrupted, Preempted

pytestmark = [pytest.mark.chaos, pytest.mark.xdist_group("chaos")]

# (what the moment is, the condition that it has come). The signal is sent as soon as it holds.
MOMENTS = {
    "imports": lambda attempt, last: time.time() - attempt.began > 1.2,
    "data": lambda attempt, last: "data: text" in attempt.stdout(),
    "compile": lambda attempt, last: any(event["kind"] == "start" for event in attempt.events()),
    "steps": lambda attempt, last: last() >= 5,
    "save": lambda attempt, last: attempt.saving(),
    "eval": lambda attempt, last: last() == EVAL_EVERY,
}


def stopped(run, moment, number):
    """Sends the signal at the moment: (the ended process, its exit code, seconds from signal to exit)."""
    attempt = run.start()
    last = attempt.last_step()
    assert attempt.until(lambda: MOMENTS[moment](attempt, last)), attempt.stderr()
    sent = time.monotonic()
    attempt.process.send_signal(number)
    code = attempt.wait()
    seconds = time.monotonic() - sent
    print(f"\n{signal.Signals(number).name} in {moment}: exit {code} after {seconds:.2f} s, saved {run.durable()}")
    return attempt, code, seconds


def check(run, unbroken, moment, number, kind):
    attempt, code, seconds = stopped(run, moment, number)
    assert code == kind.exit_code, attempt.stderr()
    assert seconds < 30
    step = max(attempt.logged(), default=0)
    block = block_of(attempt.stderr())
    assert f"stopped by {signal.Signals(number).name} after step {step}" in block and str(run.workdir) in block
    assert "Traceback" not in attempt.stderr()
    # The very step that the run was at, not the last regular save before it.
    assert run.durable()[-1] == step and not run.unfinished_saves()
    assert [event["kind"] for event in attempt.events() if event["kind"] != "seconds"][-1] == "signal"
    again = run.finish()
    assert again.logged()[0] == step + 1 and run.durable()[-1] == STEPS
    assert differing(unbroken, run)[1] == []
    assert run.checksums(STEPS) == unbroken.checksums(STEPS)


def test_sigterm_during_steps(unbroken, another):
    check(another, unbroken, "steps", signal.SIGTERM, Preempted)


@pytest.mark.slow
@pytest.mark.rotated(alone=True)
@pytest.mark.parametrize("moment", [moment for moment in MOMENTS if moment != "steps"])
def test_sigterm_at_other_moments(unbroken, another, moment):
    check(another, unbroken, moment, signal.SIGTERM, Preempted)


@pytest.mark.slow
@pytest.mark.rotated(alone=True)
def test_usr1_is_a_preemption_too(unbroken, another):
    check(another, unbroken, "steps", signal.SIGUSR1, Preempted)


@pytest.mark.slow
@pytest.mark.rotated(alone=True)
def test_sigint_saves_and_is_not_restarted(unbroken, another):
    check(another, unbroken, "steps", signal.SIGINT, Interrupted)


@pytest.mark.slow
@pytest.mark.rotated(alone=True)
def test_a_second_sigint_ends_at_once(unbroken, another):
    """While the first is being answered: that save is given up, and what was saved before stays whole."""
    attempt = another.start()
    last = attempt.last_step()
    assert attempt.until(lambda: last() > EVERY and EVERY in another.durable()), attempt.stderr()
    answering = lambda: any(int(name.split(".")[0]) % EVERY for name in another.unfinished_saves())
    attempt.process.send_signal(signal.SIGINT)
    if answered := attempt.until(answering):
        attempt.process.send_signal(signal.SIGINT)
    assert attempt.wait() == Interrupted.exit_code
    if answered:
        assert "error:" not in attempt.stderr() and not any(event["kind"] == "signal" for event in attempt.events())
    another.finish()
    assert differing(unbroken, another)[1] == []
