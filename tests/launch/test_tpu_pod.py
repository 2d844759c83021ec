"""The script for TPU slices, with a stand-in for gcloud that runs the command once for each worker."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "launch" / "tpu_pod.sh"
# All workers at once, each with a home and a name of its own; ends by the first code of a worker by number, as gcloud does.
GCLOUD = """\
#!/usr/bin/env python3
import os, pathlib, subprocess, sys
place = pathlib.Path(os.environ["PLACE"])
with open(place / "calls", "a") as file:
    print(*sys.argv[1:-1], file=file)
command = sys.argv[-1].removeprefix("--command=")
def start(worker):
    home = place / f"worker-{worker}"
    (home / "pretrainx").mkdir(parents=True, exist_ok=True)
    environ = os.environ | {"HOME": str(home), "HOSTNAME": f"w-{worker}", "WORKER": str(worker)}
    return subprocess.Popen(["bash", "-c", f"HOSTNAME=w-{worker}; " + command], env=environ)
workers = [start(worker) for worker in range(int(os.environ.get("WORKERS", "2")))]
sys.exit(next((code for code in [worker.wait() for worker in workers] if code), 0))
"""


class Pod:
    """`body` is what each worker runs, with $WORKER its number, $W the workdir and $PLACE a directory that all share."""

    def __init__(self, place):
        self.place = place
        (place / "bin").mkdir()
        self.write("bin/gcloud", GCLOUD)

    def write(self, name, text):
        (self.place / name).write_text(text)
        (self.place / name).chmod(0o755)

    def start(self, body, *words, **environ):
        self.write("bin/run", f"#!/usr/bin/env bash\nW={self.place}/W\n{body}\n")
        env = {"PATH": f"{self.place}/bin:{os.environ['PATH']}", "PLACE": str(self.place), "TPU": "pod", "ZONE": "z"}
        env |= {"PRETRAINX": "run", "PAUSE": "0"} | environ
        words = words or ("train", f"--workdir={self.place}/W")
        pipe = subprocess.PIPE
        return subprocess.Popen(["bash", SCRIPT, *words], env=os.environ | env, stdout=pipe, stderr=pipe, text=True)

    def run(self, body, *words, **environ):
        process = self.start(body, *words, **environ)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    def starts(self):
        return len(list(self.place.glob("start-0-*")))

    def until(self, pattern, count=2):
        deadline = time.monotonic() + 30
        while len(list(self.place.glob(pattern))) < count:
            assert time.monotonic() < deadline
            time.sleep(0.05)


COUNT = "starts=$(ls $PLACE | grep -c ^start-$WORKER-); touch $PLACE/start-$WORKER-$starts\n"


@pytest.fixture
def pod(tmp_path):
    return Pod(tmp_path)


def test_print_shows_what_would_run(pod):
    code, out, err = pod.run(
        "", "train", "--config=a b", "--workdir=D", PRINT="1", FLAGS="v5e", WITH="sdc", PROJECT="p"
    )
    assert (code, err) == (0, "") and out == (
        "gcloud compute tpus tpu-vm ssh pod --zone=z --project=p --worker=all --batch-size=all --command=...\n"
        "on each worker, in pretrainx: python3 launch/xla_flags.py --platform=v5e --with=sdc -- "
        "run train --config=a\\ b --workdir=D --config.distributed.kind=tpu \n"
    )
    assert not (pod.place / "calls").exists()
    out = pod.run("", "train", "--config.distributed.kind=none", PRINT="1", QUEUED="1")[1]
    assert out.startswith(
        "gcloud compute tpus queued-resources ssh pod --node=all --zone=z --worker=all --batch-size=all"
    )
    assert out.count("distributed") == 1 and pod.run("", "eval", PRINT="1")[1].endswith("run eval \n")


def test_usage(tmp_path):
    for environ, words in (({}, ["train"]), ({"TPU": "pod"}, [])):
        done = subprocess.run(["bash", SCRIPT, *words], env=os.environ | environ, capture_output=True, text=True)
        assert done.returncode == 2 and "usage: TPU=" in done.stderr


def test_lines_bear_their_worker_and_preemptions_start_again(pod):
    code, out, err = pod.run(COUNT + "echo hello $1; [ $starts -ge 2 ] || exit 75", MAX_RESTARTS="0")
    assert code == 0 and pod.starts() == 3 and err.count("exit code 75: all are started again") == 2
    assert "[w-0] hello train" in out and "[w-1] hello train" in out


@pytest.mark.slow
def test_the_first_failure_by_time_counts(pod):
    body = COUNT + "[ $WORKER = 1 ] && exit 2; sleep 1; exit 134"
    code, _, err = pod.run(body)
    assert code == 2 and pod.starts() == 1 and "not started again" in err


@pytest.mark.slow
def test_crashes_without_a_new_checkpoint_are_limited(pod):
    """One is allowed; the second is past a new checkpoint and allowed too, the third is not."""
    body = COUNT + "[ $starts != 1 ] || mkdir -p $W/checkpoints/10; exit 137"
    code, _, err = pod.run(body, MAX_RESTARTS="1")
    assert code == 137 and pod.starts() == 3 and "crash 2 since checkpoint 10" in err


@pytest.mark.slow
def test_a_signal_is_passed_on_and_nothing_is_started_again(pod):
    process = pod.start(
        COUNT + "trap 'touch $PLACE/asked-$WORKER; exit 75' TERM; touch $PLACE/ready-$WORKER; sleep 50 & wait"
    )
    pod.until("ready-*")
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 75 and pod.starts() == 1 and "nothing is started again" in err
    assert len(list(pod.place.glob("asked-*"))) == 2


@pytest.mark.slow
def test_the_same_command_joins_a_run_whose_script_was_killed(pod):
    """The run outlives it; another command is refused, the same one follows the run to its end."""
    body = COUNT + "touch $PLACE/ready-$WORKER; until [ -e $PLACE/go ]; do sleep 0.1; done; echo late"
    first = pod.start(body)
    pod.until("ready-*")
    first.kill()
    code, out, _ = pod.run(body, "train", f"--workdir={pod.place}/other")
    assert code == 2 and "still runs another command" in out
    second = pod.start(body)
    joined = lambda: [path.read_text() for path in pod.place.glob("worker-*/.pretrainx-launch/attempt")]
    while not all(attempt.startswith(f"{second.pid}-") for attempt in joined()):
        assert second.poll() is None
        time.sleep(0.05)
    (pod.place / "go").touch()
    out, _ = second.communicate(timeout=30)
    assert second.returncode == 0 and pod.starts() == 1 and "[w-1] late" in out
    first.communicate(timeout=30)


@pytest.mark.slow
def test_stop_asks_all_workers_and_nothing_is_started_again(pod):
    process = pod.start(COUNT + "trap 'exit 75' TERM; touch $PLACE/ready-$WORKER; sleep 50 & wait")
    pod.until("ready-*")
    env = os.environ | {
        "PATH": f"{pod.place}/bin:{os.environ['PATH']}",
        "PLACE": str(pod.place),
        "TPU": "pod",
        "STOP": "1",
    }
    assert subprocess.run(["bash", SCRIPT], env=env).returncode == 0
    _, err = process.communicate(timeout=30)
    assert process.returncode == 75 and pod.starts() == 1 and "nothing is started again" in err
