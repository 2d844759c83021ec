"""The batch script, with stand-ins for SLURM's own commands: whose exit code counts, what is requeued and what is not."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "launch" / "slurm.sbatch"
# Starts the command as tasks with signals as SLURM's daemon leaves them, and ends by the highest code, or by SRUN where given.
SRUN = """\
#!/usr/bin/env python3
import os, signal, subprocess, sys
words = sys.argv[sys.argv.index("bash"):]
fresh = lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL)
tasks = [subprocess.Popen(words, env=os.environ | {"SLURM_PROCID": str(task)}, preexec_fn=fresh) for task in range(TASKS)]
open(os.environ["PLACE"] + "/pids", "w").write(" ".join(str(task.pid) for task in tasks) + " end")
highest = max(128 - code if code < 0 else code for code in [task.wait() for task in tasks])
sys.exit(int(os.environ.get("SRUN") or highest))
"""


class Cluster:
    """Attempts of one job: `body` is what each task runs, with $task its number, $place a directory, and $W the workdir."""

    def __init__(self, place):
        self.place, self.attempts, self.workdir = place, 0, place / "runs" / "a"
        (place / "bin").mkdir()

    def _command(self, name, text):
        path = self.place / "bin" / name
        path.write_text(text)
        path.chmod(0o755)

    def start(self, body, *, tasks=2, state="RUNNING", srun="", limit="5", words=None):
        self._command("srun", SRUN.replace("TASKS", str(tasks)))
        self._command("scontrol", f'#!/usr/bin/env bash\necho "$@" >> {self.place}/scontrol\n')
        self._command("squeue", f"#!/usr/bin/env bash\n{f'echo {state}' if state else 'exit 1'}\n")
        self._command("run", f"#!/usr/bin/env bash\ntask=$SLURM_PROCID place={self.place} W={self.workdir}\n{body}\n")
        environ = os.environ | {
            "PATH": f"{self.place}/bin:{os.environ['PATH']}",
            "SLURM_JOB_ID": "17",
            "PRETRAINX": "run",
        }
        environ |= {
            "SLURM_RESTART_COUNT": str(self.attempts),
            "PLACE": str(self.place),
            "SRUN": srun,
            "MAX_RESTARTS": limit,
        }
        self.attempts += 1
        (self.place / "scontrol").unlink(missing_ok=True)
        words = [f"--workdir={self.workdir}"] if words is None else words
        return subprocess.Popen(["bash", SCRIPT, "train", *words], env=environ, cwd=self.place)

    def requeued(self):
        called = self.place / "scontrol"
        return called.exists() and called.read_text() == "requeue 17\n"

    def run(self, body, **options):
        """(exit code, whether the job went back into the queue)"""
        return self.start(body, **options).wait(timeout=60), self.requeued()

    def left(self):
        return sorted(path.name for path in self.place.rglob("*slurm-17*"))


@pytest.fixture
def cluster(tmp_path):
    return Cluster(tmp_path)


@pytest.mark.parametrize("code", [0, 1, 2, 3, 4, 5, 6, 127, 130])
def test_codes_that_end(cluster, code):
    assert cluster.run(f"exit {code}") == (code, False)
    assert not cluster.left()


@pytest.mark.parametrize("code", [7, 75, 134, 137, 139, 143, 253])
def test_codes_that_go_back_into_the_queue(cluster, code):
    assert cluster.run(f"exit {code}") == (code, True)


@pytest.mark.parametrize(("first", "then", "again"), [(2, 134, False), (75, 134, True), (134, 75, True), (0, 3, False)])
def test_the_first_failure_by_time_counts(cluster, first, then, again):
    body = f"[ $task = 1 ] && exit {first}\nuntil [ -e $W.slurm-17-0.code ] || [ {first} = 0 ]; do sleep 0.1; done\nexit {then}"
    assert cluster.run(body, tasks=3) == (first or then, again)


def test_a_task_that_is_killed_notes_it(cluster):
    assert cluster.run("[ $task = 1 ] && kill -ABRT $$; sleep 0.5; exit 143") == (134, True)


def test_without_a_noted_code_that_of_srun_counts(cluster):
    assert cluster.run("exit 0", srun="253") == (253, True)
    assert cluster.run("exit 0", srun="1") == (1, False)


def test_only_crashes_without_a_new_checkpoint_are_counted(cluster):
    crash, saved = "exit 134", "mkdir -p $W/checkpoints/{} $W/checkpoints/9.corrupt; exit 137"
    assert [cluster.run(crash, limit="1")[1] for _ in range(2)] == [True, False]
    assert not cluster.left(), "the next job counts anew"
    assert cluster.run("exit 75", limit="0") == (75, True)
    for step in ("8", "10", "100"):
        assert cluster.run(saved.format(step), limit="1") == (137, True)
    assert cluster.run("exit 75", limit="1")[1], "a preemption is no crash"
    assert cluster.run(crash, limit="1") == (134, False)


@pytest.mark.parametrize(
    ("state", "again"), [("RUNNING", True), ("", True), ("COMPLETING", False), ("CANCELLED", False)]
)
def test_a_cancelled_job_does_not_come_back(cluster, state, again):
    assert cluster.run("exit 75", state=state) == (75, again)
    assert cluster.run("exit 137", state=state) == (137, again)


@pytest.mark.parametrize("words", [["--workdir", "runs/b"], []], ids=["apart", "none"])
def test_where_the_workdir_is_named_otherwise(cluster, words):
    """Codes are noted beside it, or where the job was submitted: never inside, which some commands want empty."""
    assert cluster.run("exit $((2 + 132 * task))", words=words, tasks=1) == (2, False)
    assert cluster.run("exit 7", words=words) == (7, True)
    assert cluster.left() == ["b.slurm-17.crashes" if words else "slurm-17.crashes"]
    assert not (cluster.place / "runs" / "b").exists()


@pytest.mark.parametrize(("number", "name"), [(signal.SIGTERM, "TERM"), (signal.SIGUSR1, "USR1")])
def test_a_signal_to_the_tasks_reaches_the_command(cluster, number, name):
    """Whoever is signalled, the code is the one that the command ends with after saving."""
    body = f"trap 'sleep 0.3; exit 75' {name}; touch $place/ready-$task; while :; do sleep 0.02; done"
    job, deadline = cluster.start(body), time.monotonic() + 30
    started = cluster.place / "pids"
    while len(list(cluster.place.glob("ready-*"))) < 2 or not (started.exists() and "end" in started.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    for _ in range(2):
        for pid in started.read_text().split()[:-1]:
            os.kill(int(pid), number)
        time.sleep(0.05)
    assert job.wait(timeout=30) == 75 and cluster.requeued()


def test_print_runs_nothing(tmp_path):
    done = subprocess.run(
        ["bash", SCRIPT, "train", "--config=a b"],
        env=os.environ | {"PRINT": "1"},
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.stdout == "srun --kill-on-bad-exit=0 --wait=300 --label pretrainx train --config=a\\ b \n"
    assert done.returncode == 0 and not list(tmp_path.iterdir())


def test_the_steps_get_the_signal():
    """With `B:` the batch shell alone would; without --requeue a preempted job is gone."""
    options = [line.split(maxsplit=1)[1] for line in SCRIPT.read_text().splitlines() if line.startswith("#SBATCH")]
    assert "--signal=TERM@300" in options and "--requeue" in options


def test_the_example_names_a_recipe_that_is_there():
    found = [word.partition("=")[2] for word in SCRIPT.read_text().split() if word.startswith("--config=configs/")]
    assert found and all((SCRIPT.parents[1] / path).is_file() for path in found)
