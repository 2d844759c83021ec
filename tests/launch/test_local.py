"""The launcher, with real processes that know no JAX: what it shows, which exit codes start all again, who is ended."""

import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

LAUNCHER = Path(__file__).parents[2] / "launch" / "local.py"
# A process of a gang: its rank, how often this rank was started before (a file counts), and the directory it may write to.
PRELUDE = """\
import os, pathlib, signal, sys, time
rank, place = int(os.environ.get("PRETRAINX_PROCESS", 0)), pathlib.Path(sys.argv[1])
starts = len(list(place.glob(f"start-{rank}-*")))
(place / f"start-{rank}-{starts}").touch()
"""


@pytest.fixture
def place(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    return tmp_path


def command(place, body, *options):
    own = [sys.executable, str(LAUNCHER), *options, "--"]
    return [*own, sys.executable, "-c", PRELUDE + body, str(place), f"--workdir={place}"]


def launch(place, body, *options):
    """(exit code, stdout, stderr) of a gang whose processes run `body`."""
    done = subprocess.run(command(place, body, *options), capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout, done.stderr


def starts(place, rank=0):
    return len(list(place.glob(f"start-{rank}-*")))


def test_print_shows_commands_and_runs_nothing(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    words = ["--processes=2", "--devices=3", "--print", "--", "pretrainx", "train", "--config=a b.py", "--workdir=DIR"]
    done = subprocess.run([sys.executable, LAUNCHER, *words], capture_output=True, text=True, cwd=tmp_path)
    lines = [
        f"PRETRAINX_COORDINATOR=127.0.0.1:PORT PRETRAINX_PROCESSES=2 PRETRAINX_PROCESS={process} "
        "JAX_COORDINATOR_BIND_ADDRESS=127.0.0.1:PORT JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES=3 "
        "pretrainx train '--config=a b.py' --workdir=DIR"
        for process in (0, 1)
    ]
    assert (done.returncode, done.stderr, done.stdout.splitlines()) == (0, "", lines)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", [["--processes=2"], ["--processes=0", "--", "true"], ["--proceses=2", "--", "true"]])
def test_bad_command_lines(words):
    done = subprocess.run([sys.executable, LAUNCHER, *words], capture_output=True, text=True)
    assert done.returncode == 2 and "usage" in done.stderr


def test_lines_bear_their_process(place):
    # Each line in one write: the first process has the terminal itself, and an unbuffered `print` writes word by word.
    body = "sys.stdout.write(f'out {rank}\\n'); sys.stderr.write(f'err {rank}\\n')"
    code, out, err = launch(place, body, "--processes=3")
    assert code == 0
    assert sorted(out.splitlines()) == ["[1] out 1", "[2] out 2", "out 0"]
    assert sorted(err.splitlines()) == ["[1] err 1", "[2] err 2", "err 0"]


@pytest.mark.parametrize("code", [1, 2, 3, 4, 5, 6, 130])
def test_codes_that_end(place, code):
    assert launch(place, f"sys.exit({code})")[0] == code
    assert starts(place) == 1


def test_preempted_starts_again_without_limit(place):
    body = "while len(list(place.glob(f'start-*-{starts}'))) < 2: time.sleep(0.01)\nsys.exit(75 if starts < 4 else 0)"
    code, _, err = launch(place, body, "--processes=2", "--restarts=1")
    assert code == 0 and starts(place, 0) == starts(place, 1) == 5
    assert err.count("all are started again") == 4


def test_preemptions_leave_the_limit_as_it_is(place):
    """Three of them, and one fault on each side: the one restart that is allowed is still there for the first fault."""
    code, _, err = launch(place, "sys.exit([75, 75, 75, 7, 75, 7][starts])", "--restarts=1")
    assert code == 7 and starts(place) == 6 and "2 times without a new checkpoint" in err


@pytest.mark.parametrize("name", ["no-such-command", "/"])
def test_a_command_that_cannot_be_started(name):
    done = subprocess.run([sys.executable, LAUNCHER, "--", name], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith(f"launch: {name!r} cannot be started: ")
    assert done.stderr.count("\n") == 1


def test_processes_that_wait_for_one_that_cannot_be_started_are_ended(place):
    """The launcher may open few files, so the pipes of some process cannot be made."""
    few = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (14, 14))
    words, began = [sys.executable, LAUNCHER, "--processes=8", "--", "sleep", "50"], time.monotonic()
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, preexec_fn=few) as process:
        err = process.stderr.read()  # to its end, which process 0 holds too
    assert process.returncode == 2 and err == "launch: 'sleep' cannot be started: Too many open files\n"
    assert time.monotonic() - began < 30


@pytest.mark.parametrize("end", ["sys.exit(7)", "os.abort()", "os.kill(os.getpid(), signal.SIGKILL)", "sys.exit(139)"])
def test_faults_start_again_up_to_the_limit(place, end):
    code, _, err = launch(place, end, "--restarts=2")
    assert code == {"sys.exit(7)": 7, "os.abort()": 134, "sys.exit(139)": 139}.get(end, 137)
    assert starts(place) == 3 and "without a new checkpoint" in err
    assert ("out of memory" in err) == (code == 137)


def test_a_new_checkpoint_renews_the_limit(place):
    """Two faults without a new step are allowed: with one at the second start of five, the limit is never reached."""
    body = "(place / 'checkpoints' / str(starts // 2)).mkdir(exist_ok=True); sys.exit(7 if starts < 5 else 0)"
    code, _, err = launch(place, body, "--restarts=1")
    assert code == 0 and starts(place) == 6, err


def test_the_first_failure_by_time_counts_and_the_others_are_ended(place):
    """Process 1 fails first; the others are asked to end, one of them does, the other must be killed."""
    body = """\
if rank == 1:
    time.sleep(0.5)
    sys.exit(4)
if rank == 2:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
else:
    signal.signal(signal.SIGTERM, lambda *_: ((place / 'asked').touch(), sys.exit(75)))
time.sleep(50)
"""
    began = time.monotonic()
    code, _, err = launch(place, body, "--processes=3", "--grace=1")
    assert code == 4 and "process 1 of 3 ended first, by 4" in err
    assert (place / "asked").exists() and time.monotonic() - began < 15
    assert starts(place, 0) == starts(place, 2) == 1


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_signals_are_passed_on_and_nothing_is_started_again(place, number, code):
    body = f"signal.signal({number.value}, lambda *_: sys.exit({code})); (place / f'ready-{{rank}}').touch(); time.sleep(50)"
    process = subprocess.Popen(command(place, body, "--processes=2"), stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 30
    while len(list(place.glob("ready-*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == code and "nothing is started again" in err
    assert starts(place, 0) == starts(place, 1) == 1


def test_a_passed_signal_that_is_not_obeyed_kills_after_the_grace(place):
    """A process whose runtime swallows SIGTERM must not outlive the job."""
    body = "signal.signal(signal.SIGTERM, signal.SIG_IGN); (place / 'ready').touch(); time.sleep(50)"
    process = subprocess.Popen(command(place, body, "--grace=0.5"), stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 30
    while not (place / "ready").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 137 and starts(place) == 1
