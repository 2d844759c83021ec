"""Many processes, one run: how they find each other, and how they agree.

Every process runs the same program; process 0 also decides and writes. All that is private in JAX (the coordination
service's keys and barriers, the preemption notice) is used here and nowhere else.
"""

from __future__ import annotations

import atexit
import collections
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pretrainx.core.errors import HangError, PretrainxError
from pretrainx.parallel.schedulers import Plan, resolve

LEAVING_SECONDS = 5.0  # how long a process that failed waits for the others to fail too


@dataclass(frozen=True)
class DistributedConfig:
    """How many processes make one run; they must share the file system that holds workdir and data.

    Attributes:
      kind: "auto" starts many only where the environment says more than one: PRETRAINX_* variables, SLURM's step, a GKE
        job or a TPU slice. A TPU pod without those (one virtual machine per host) needs "tpu". "none" never does.
      coordinator: host:port of process 0. Like the two below it is found by the scheduler's variables where left out, and
        PRETRAINX_COORDINATOR, PRETRAINX_PROCESSES and PRETRAINX_PROCESS override it.
      processes: their number; 0 is "by the environment".
      process_id: of this process, from 0; -1 is "by the environment".
      heartbeat_seconds: a process that is silent for so long is taken for dead, and all others abort (exit 134).
      initialization_timeout: seconds to wait for all processes at the start.
      wait_seconds: how long the others wait where process 0 works alone, such as while it prepares data.
    """

    kind: str = field(default="auto", metadata={"choices": ("auto", "none", "explicit", "slurm", "gke", "tpu")})
    coordinator: str = ""
    processes: int = field(default=0, metadata={"min": 0})
    process_id: int = field(default=-1, metadata={"min": -1})
    heartbeat_seconds: int = field(default=30, metadata={"min": 1})
    initialization_timeout: int = field(default=300, metadata={"min": 1})
    wait_seconds: int = field(default=3600, metadata={"min": 1})


_rounds: collections.Counter = collections.Counter()  # how often each purpose was agreed on: names are used once
_patience = float(DistributedConfig.wait_seconds)  # of the configuration that started this process
_notice: Any = None  # JAX's agreement on the call after which all stop


def start(
    config: DistributedConfig, say: Callable[[str], None] = print, environ: Mapping[str, str] | None = None
) -> Plan | None:
    """Joins the other processes; None where this one is alone. Must run before the first computation; again does nothing.

    Raises ConfigError where a variable is missing, HangError where the coordinator cannot be had. Where others do not come in
    time JAX aborts the process (exit 134).
    """
    global _patience, _notice
    import jax

    plan = resolve(config, os.environ if environ is None else environ)
    if plan is None or jax.distributed.is_initialized():
        return plan
    began = time.monotonic()
    # Where the others do not come JAX aborts the process, past any exception: the reason must have been said before.
    patience = config.initialization_timeout
    text = f"still waiting for the other processes, and ended by JAX (exit 134) {patience} s after the start: {plan.line()}"
    late = threading.Timer(min(20.0, patience / 2), lambda: print(text, file=sys.stderr, flush=True))
    late.daemon = True
    late.start()
    try:
        jax.distributed.initialize(
            plan.coordinator,
            plan.processes,
            plan.process,
            local_device_ids=plan.local_devices,
            cluster_detection_method={"explicit": "deactivate", "gke": "deactivate", "slurm": "slurm"}.get(plan.kind),
            initialization_timeout=config.initialization_timeout,
            heartbeat_timeout_seconds=config.heartbeat_seconds,
        )
    except (RuntimeError, ValueError, OSError) as error:
        raise HangError(
            "the processes of the run did not find each other",
            where=plan.line(),
            why=str(error).strip().split("\n")[0][:300],
            do="see that all processes were started, that process 0 can be reached at the coordinator's address, and that "
            "its port is free; config.distributed.initialization_timeout is how long they wait",
        ) from error
    finally:
        late.cancel()
    _patience, state = float(config.wait_seconds), _state()
    # Ours alone: Orbax asks it too, counting steps, and a count that goes back and forth lets two processes miss each other.
    _notice, state.preemption_sync_manager = state.preemption_sync_manager, None
    atexit.register(_notice.shutdown)  # before the client's own end
    if jax.default_backend() == "cpu":
        # A CPU program read back from the compilation cache runs its collectives in no fixed order: with gloo, which goes by
        # order alone, one device then adds up other numbers than its neighbours, without an error.
        jax.config.update("jax_enable_compilation_cache", False)
    if leads():
        say(f"{plan.line()} | joined in {time.monotonic() - began:.1f} s")
    return plan


def _state():
    """The process's part in the job; it is read without touching a device."""
    jax = sys.modules.get("jax")  # where it was never imported, nothing was started
    return jax._src.distributed.global_state if jax is not None else None


def count() -> int:
    """How many processes this run has."""
    state = _state()
    return state.num_processes if state is not None and state.client is not None else 1


def index() -> int:
    """The number of this process, from 0."""
    return _state().process_id if count() > 1 else 0


def leads() -> bool:
    """Whether this is process 0: the one that writes, prints and decides."""
    return index() == 0


def exchange(purpose: str, value: Any = None, seconds: float | None = None) -> list:
    """What each process gives (plain values), by process number. All must call it, in the same order of purposes.

    Raises HangError naming those who did not come within `seconds` (default: config.distributed.wait_seconds).
    """
    if count() == 1:
        return [value]
    client, seconds = _state().client, _patience if seconds is None else seconds
    _rounds[purpose] += 1
    name = f"pretrainx/{purpose}/{_rounds[purpose]}"
    client.key_value_set(f"{name}/{index()}", json.dumps(value))
    try:
        client.wait_at_barrier(name, int(seconds * 1000))
    except RuntimeError as error:
        came = {int(key.rsplit("/", 1)[1]) for key, _ in client.key_value_dir_get(name)}
        absent = ", ".join(str(process) for process in sorted(set(range(count())) - came))
        raise HangError(
            f"other processes did not come to {purpose!r} within {seconds:g} seconds",
            where=f"process {index()} of {count()}",
            why=f"waited for processes {absent}" if absent else str(error).split("\n")[0][:300],
            do="look at what they do (DIR/process-<i>.log), then run the same command again: it resumes",
        ) from error
    given = {int(key.rsplit("/", 1)[1]): json.loads(text) for key, text in client.key_value_dir_get(name)}
    return [given[process] for process in range(count())]


def decided(purpose: str, action: Callable[[], Any], seconds: float | None = None) -> Any:
    """What `action` gives (a plain value) in process 0, the only one to run it; where it raises there, all raise."""
    if count() == 1:
        return action()
    value = error = None
    if leads():
        try:
            value = action()
        except Exception as raised:
            error = raised
            if isinstance(error, PretrainxError):
                error.shared = True
    outcome = exchange(purpose, {"value": value, "error": _plain(error)}, seconds)[0]
    if error is not None:
        raise error
    if outcome["error"]:
        kind, what, where, why, do = outcome["error"]
        relayed = _kinds(PretrainxError)[kind](what, where=where, why=why, do=do)
        relayed.shared = True
        raise relayed
    return outcome["value"]


def _plain(error: Exception | None) -> tuple | None:
    if error is None:
        return None
    if isinstance(error, PretrainxError):
        return type(error).__name__, error.what, error.where, error.why, error.do
    return PretrainxError.__name__, f"unexpected {type(error).__name__}: {error}", "process 0", "", "see its traceback"


def _kinds(kind: type[PretrainxError]) -> dict[str, type[PretrainxError]]:
    found = {kind.__name__: kind}
    for narrower in kind.__subclasses__():
        found |= _kinds(narrower)
    return found


def first_trouble(purpose: str, trouble: str = "") -> str:
    """The first text that a process gives, "" where all give none: whether something went well everywhere."""
    return next((text for text in exchange(purpose, trouble) if text), "")


def settled(tree: Any) -> Any:
    """`tree`, and on several CPU devices, of one process or many, not before it is computed.

    Collectives between CPU processes (gloo) carry no name: those of two programs in flight at once meet each other, and the
    processes hang or abort. Simulated devices of one process share its threads, which many programs in flight use up while
    each waits for the others. Every program that runs over all devices is waited for there; accelerators order their own.
    """
    import jax

    if jax.default_backend() == "cpu" and jax.device_count() > 1:
        return jax.block_until_ready(tree)
    return tree


def ask_to_stop(name: str) -> None:
    """Tells all processes that the signal `name` asks the run to end."""
    _state().client.key_value_set("pretrainx/signal", name, allow_overwrite=True)
    os.kill(os.getpid(), signal.SIGTERM)  # JAX has taken this signal over: it spreads the word, and agrees on a call


def reached_stop(call: int) -> bool:
    """Whether all processes stop at this call, numbered 1, 2, ... in each of them; true once after some was asked to."""
    return _notice.reached_sync_point(call)


def stopped_by() -> str:
    """The signal that the run ends by: SIGTERM, unless a process said another."""

    def name() -> str:
        try:
            return _state().client.key_value_try_get("pretrainx/signal")
        except RuntimeError:  # no such key
            return "SIGTERM"

    return decided("signal", name)


def leave(code: int) -> None:
    """Ends a process that failed while others wait for it; returns where all of them failed together, or none is there.

    The end of an interpreter would wait for minutes for the others, which wait inside a collective for this process.
    """
    if count() == 1:
        return
    try:
        _state().client.wait_at_barrier("pretrainx/leaving", int(LEAVING_SECONDS * 1000))
    except RuntimeError:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
