"""What each scheduler's variables mean, and how processes agree: with real processes, without training."""

import os
import pathlib
import socket
import subprocess
import sys
import time

import pytest

from pretrainx.core.errors import ConfigError
from pretrainx.parallel import distributed
from pretrainx.parallel.distributed import DistributedConfig
from pretrainx.parallel.schedulers import Plan, resolve

pytestmark = [pytest.mark.xdist_group("processes"), pytest.mark.timeout(240)]

OURS = {"PRETRAINX_COORDINATOR": "10.0.0.1:99", "PRETRAINX_PROCESSES": "4", "PRETRAINX_PROCESS": "2"}
STEP = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "node[01-02]",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
}
ONE_PER_NODE = STEP | {"SLURM_NTASKS": "2", "SLURM_PROCID": "1", "SLURM_LOCALID": "0"}
SET = {"JOB_COMPLETION_INDEX": "2", "PRETRAINX_PROCESSES": "3", "JOBSET_NAME": "a", "REPLICATED_JOB_NAME": "w"}
SLICE = {"TPU_WORKER_HOSTNAMES": "t0,t1", "TPU_WORKER_ID": "1"}


@pytest.mark.parametrize(
    ("config", "environ", "plan"),
    [
        ({}, {}, None),
        ({}, OURS, Plan("explicit", "10.0.0.1:99", 4, 2)),
        ({}, OURS | {"PRETRAINX_PROCESSES": "1", "PRETRAINX_PROCESS": "0"}, None),
        ({}, OURS | STEP, Plan("explicit", "10.0.0.1:99", 4, 2)),  # ours override a scheduler's
        ({"coordinator": "a:1", "processes": 9, "process_id": 1}, {}, Plan("explicit", "a:1", 9, 1)),
        ({"coordinator": "a:1", "processes": 9, "process_id": 1}, OURS, Plan("explicit", "10.0.0.1:99", 4, 2)),
        ({}, STEP, Plan("slurm", None, 4, 3)),
        ({"coordinator": "a:1"}, STEP, Plan("slurm", "a:1", 4, 3)),
        ({}, STEP | {"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, None),
        # A batch script before srun: it knows the tasks, but has no step.
        ({}, {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, None),
        # A task that has a node for itself takes all of its GPUs; one that sees a single GPU takes that, whatever its number.
        ({}, ONE_PER_NODE | {"SLURM_GPUS_ON_NODE": "4"}, Plan("slurm", None, 2, 1, (0, 1, 2, 3))),
        ({}, STEP | {"CUDA_VISIBLE_DEVICES": "0"}, Plan("slurm", None, 4, 3, (0,))),
        ({}, STEP | {"CUDA_VISIBLE_DEVICES": "0,1"}, Plan("slurm", None, 4, 3)),
        ({}, SET, Plan("gke", "a-w-0-0.a:8476", 3, 2)),
        ({}, SET | {"PRETRAINX_COORDINATOR": "b:2"}, Plan("gke", "b:2", 3, 2)),
        ({}, {"JOB_COMPLETION_INDEX": "2"}, None),  # an indexed job of runs that have nothing to do with each other
        ({}, SLICE, Plan("tpu", None, 2, 1)),
        ({}, {"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"}, None),
        ({}, SLICE | {"MEGASCALE_NUM_SLICES": "2"}, Plan("tpu")),
        ({"kind": "tpu"}, {}, Plan("tpu")),  # a pod of virtual machines: JAX asks the metadata server
        ({"kind": "none"}, STEP, None),
    ],
)
def test_who_is_there(config, environ, plan):
    assert resolve(DistributedConfig(**config), environ) == plan


@pytest.mark.parametrize(
    ("kind", "environ", "named"),
    [
        ("auto", {"PRETRAINX_PROCESSES": "2"}, "PRETRAINX_COORDINATOR, PRETRAINX_PROCESS"),
        ("auto", OURS | {"PRETRAINX_COORDINATOR": ""}, "PRETRAINX_COORDINATOR"),
        ("auto", OURS | {"PRETRAINX_PROCESS": "4"}, "4 of 4"),
        ("auto", OURS | {"PRETRAINX_PROCESS": "two"}, "PRETRAINX_PROCESS"),
        ("auto", {"MEGASCALE_NUM_SLICES": "two"}, "MEGASCALE_NUM_SLICES"),
        ("none", OURS, "4 processes are started"),
        ("slurm", {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2"}, "SLURM_STEP_NODELIST, SLURM_PROCID, SLURM_LOCALID"),
        ("gke", {"JOBSET_NAME": "a"}, "PRETRAINX_PROCESSES, JOB_COMPLETION_INDEX, REPLICATED_JOB_NAME"),
    ],
)
def test_what_is_missing_is_named(kind, environ, named):
    with pytest.raises(ConfigError) as caught:
        resolve(DistributedConfig(kind=kind), environ)
    assert named in str(caught.value)


def test_one_process_agrees_with_itself():
    assert distributed.count() == 1 and distributed.leads() and distributed.index() == 0
    assert distributed.start(DistributedConfig(), environ={}) is None
    assert distributed.exchange("a", {"b": 1}) == [{"b": 1}]
    assert distributed.decided("a", lambda: 3) == 3
    assert distributed.first_trouble("a", "late") == "late" and distributed.first_trouble("a") == ""


def test_what_is_private_in_jax_is_used_in_one_file():
    package = pathlib.Path(distributed.__file__).parents[1]
    users = [path.name for path in sorted(package.rglob("*.py")) if "jax._src" in path.read_text()]
    assert users == ["distributed.py"]


PRELUDE = """\
import sys, time
from pretrainx.core.errors import DataError, PretrainxError
from pretrainx.parallel import distributed
from pretrainx.training.restore import FormatError
config = distributed.DistributedConfig(heartbeat_seconds=5, initialization_timeout=PATIENCE)
distributed.start(config)
assert distributed.start(config) is not None and distributed.count() == 2  # the second time does nothing
rank = distributed.index()
def show(*words):
    print(rank, *words, flush=True)
"""


def pair(body, only=(0, 1), patience=20):
    """[(exit code, lines, seconds)] of two processes that run `body`; `only` these of the two are started."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{probe.getsockname()[1]}"
    found, began = [], time.monotonic()
    for rank in only:
        own = {"PRETRAINX_COORDINATOR": coordinator, "PRETRAINX_PROCESSES": "2", "PRETRAINX_PROCESS": str(rank)}
        words = [sys.executable, "-c", PRELUDE.replace("PATIENCE", str(patience)) + body]
        found.append(subprocess.Popen(words, env=os.environ | own, stdout=subprocess.PIPE, stderr=subprocess.STDOUT))
    outcomes = []
    try:
        for process in found:
            out, _ = process.communicate(timeout=60)
            lines = [line for line in out.decode().splitlines() if line.startswith(("0 ", "1 ", "still"))]
            outcomes.append((process.returncode, lines, time.monotonic() - began))
            print(out.decode())
    finally:
        for process in found:
            process.kill()
    return outcomes


def test_two_processes_agree():
    body = """\
show(distributed.exchange("letters", "ab"[rank]), distributed.exchange("letters", "cd"[rank]))
show(distributed.decided("number", lambda: [rank, 7]))
show(distributed.first_trouble("read", "torn" if rank else ""), distributed.first_trouble("read"))
for kind in (DataError, FormatError):
    def fail():
        raise kind("no rows", where="here", why="none", do="add some")
    try:
        distributed.decided("data", fail)
    except PretrainxError as error:
        show(type(error).__name__, error.exit_code, error.shared, error.what, error.where, error.why, error.do)
"""
    first, second = pair(body)
    assert first[0] == second[0] == 0
    assert [line[2:] for line in first[1]] == [line[2:] for line in second[1]]
    assert [line[2:] for line in second[1]] == [
        "['a', 'b'] ['c', 'd']",
        "[0, 7]",
        "torn ",
        "DataError 3 True no rows here none add some",
        "FormatError 4 True no rows here none add some",
    ]


def test_two_processes_agree_on_what_is_saved_and_whole(tmp_path):
    """What process 0 knows of a step on disk counts, and a sum that differs in process 1 alone is damage for both."""
    body = f"""\
import pathlib, jax, numpy as np
from pretrainx.training.checkpoint import Checkpoints
from pretrainx.training.restore import read_leaves, read_meta
from pretrainx.training.state import TrainState
place = pathlib.Path({str(tmp_path)!r})
everywhere = jax.sharding.NamedSharding(jax.make_mesh((jax.device_count(),), ("x",)), jax.sharding.PartitionSpec())
placed = lambda value: jax.make_array_from_callback(value.shape, everywhere, lambda index: value[index])
state = TrainState(placed(np.int32(8)), {{"w": placed(np.ones(3, np.float32))}}, {{}}, {{}}, {{}}, {{}}, {{}})
checkpoints = Checkpoints(place, keep=2)
checkpoints.in_flight = 8 if rank else None
show(checkpoints.save(state, {{}}))
checkpoints.demand(8)
checkpoints.close()
meta = read_meta(place, 8)
meta["leaves"]["params/w"]["checksum"] ^= rank
wanted = {{"params/w": jax.ShapeDtypeStruct((3,), np.float32, sharding=everywhere)}}
try:
    show(read_leaves(place, 8, wanted, meta))
except PretrainxError as error:
    show(error.exit_code, error.what, error.where.rsplit("/8, ")[-1])
"""
    first, second = pair(body)
    assert first[0] == second[0] == 0
    assert [line[2:] for line in first[1]] == ["True", "4 a checkpoint is damaged leaf params/w"]
    assert [line[2:] for line in second[1]] == [line[2:] for line in first[1]]


def test_who_does_not_come_is_named_and_a_failed_process_does_not_wait():
    """Process 1 stays away from the barrier: process 0 says so, fails, and ends soon; process 1 follows by its heartbeat."""
    body = """\
if rank == 0:
    try:
        distributed.exchange("rows", seconds=2)
    except PretrainxError as error:
        show(error.exit_code, error.why)
        distributed.leave(7)
time.sleep(25)
"""
    first, second = pair(body)
    assert first[:2] == (7, ["0 7 waited for processes 1"])
    assert second[0] == -6 and second[2] < 30  # JAX aborts it: the coordinator is gone


def test_nobody_comes():
    """JAX aborts a process whose peers do not come; the reason is said before, by itself."""
    for rank in (0, 1):
        ((code, lines, seconds),) = pair("show('joined')", only=(rank,), patience=3)
        assert code == -6 and seconds < 20
        assert len(lines) == 1 and "still waiting" in lines[0] and f"process {rank} of 2" in lines[0]
