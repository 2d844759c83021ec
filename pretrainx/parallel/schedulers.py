"""What the environment says about the processes of a run: SLURM, GKE, TPU slices, or variables of our own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pretrainx.core.errors import ConfigError

PORT = 8476  # of the coordinator, where a scheduler has none to give


@dataclass(frozen=True)
class Plan:
    """How this process joins the others. None is left to JAX's own detection.

    Attributes:
      kind: explicit, slurm, gke or tpu.
      coordinator: host:port of process 0; processes: their number; process: the number of this one.
      local_devices: the GPUs of this process among those it can see; None is all.
    """

    kind: str
    coordinator: str | None = None
    processes: int | None = None
    process: int | None = None
    local_devices: tuple[int, ...] | None = None

    def line(self) -> str:
        number = "this" if self.process is None else self.process
        total = "as many as the slice has" if self.processes is None else self.processes
        return f"distributed ({self.kind}): process {number} of {total}, coordinator {self.coordinator or 'by JAX'}"


def resolve(config: Any, environ: Mapping[str, str]) -> Plan | None:
    """The plan of a DistributedConfig in an environment; None where one process is the whole run.

    PRETRAINX_* variables come first, then the configuration, then the scheduler's variables. Raises ConfigError naming
    the variable that is missing or unreadable.
    """
    coordinator = environ.get("PRETRAINX_COORDINATOR") or config.coordinator or None
    processes = _number(environ, "PRETRAINX_PROCESSES", config.processes or None)
    process = _number(environ, "PRETRAINX_PROCESS", config.process_id if config.process_id >= 0 else None)
    if config.kind == "none":
        if (processes or 1) > 1:
            raise _misfit("config.distributed.kind", f"'none', but {processes} processes are started", "auto")
        return None
    kind = config.kind
    if kind == "auto":
        kind = _found(environ, processes, process)
    if kind is None or (processes == 1 and kind == "explicit"):
        return None
    if kind == "explicit":
        missing = {"PRETRAINX_COORDINATOR": coordinator, "PRETRAINX_PROCESSES": processes, "PRETRAINX_PROCESS": process}
        _demand(kind, [name for name, value in missing.items() if value is None])
        plan = Plan(kind, coordinator, processes, process)
    else:
        plan = {"slurm": _slurm, "gke": _gke, "tpu": _tpu}[kind](environ, coordinator, processes, process)
    if plan.processes == 1:
        return None
    if plan.process is not None and plan.processes is not None and not 0 <= plan.process < plan.processes:
        raise _misfit("the process's number", f"{plan.process} of {plan.processes} processes", kind)
    return plan


def _found(environ: Mapping[str, str], processes: int | None, process: int | None) -> str | None:
    """The kind that the environment speaks of; None where it says one process, or nothing."""
    if process is not None:
        return "explicit"
    hosts = environ.get("TPU_PROCESS_ADDRESSES") or environ.get("TPU_WORKER_HOSTNAMES") or ""
    if "," in hosts or _number(environ, "MEGASCALE_NUM_SLICES", 1) > 1:
        return "tpu"
    if "JOB_COMPLETION_INDEX" in environ and processes:
        return "gke"
    # A batch script outside `srun` has SLURM_NTASKS as well, but no step: it is one process.
    if "SLURM_STEP_NODELIST" in environ and _number(environ, "SLURM_NTASKS", 1) > 1:
        return "slurm"
    return "explicit" if processes else None


def _slurm(environ: Mapping[str, str], coordinator: str | None, processes: int | None, process: int | None) -> Plan:
    """One process per task of the step that `srun` started; JAX takes the coordinator from the step's first node."""
    needed = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
    _demand("slurm", [name for name in needed if name not in environ], "start it by srun, inside sbatch or salloc")
    processes = processes or _number(environ, "SLURM_NTASKS")
    process = _number(environ, "SLURM_PROCID") if process is None else process
    return Plan("slurm", coordinator, processes, process, _gpus_of_task(environ, processes))


def _gpus_of_task(environ: Mapping[str, str], processes: int) -> tuple[int, ...] | None:
    """JAX would give task i of a node the GPU i alone: wrong where a task has the node to itself, or sees one GPU only."""
    seen = environ.get("CUDA_VISIBLE_DEVICES")
    gpus = len(seen.split(",")) if seen else _number(environ, "SLURM_GPUS_ON_NODE", 0)
    nodes = _number(environ, "SLURM_STEP_NUM_NODES", 1)
    tasks = max(processes // nodes, 1)
    if gpus and (tasks == 1 or gpus == 1):
        return tuple(range(gpus))
    return None


def _gke(environ: Mapping[str, str], coordinator: str | None, processes: int | None, process: int | None) -> Plan:
    """An indexed Job or JobSet: Kubernetes gives the index; the manifest gives the number and the names."""
    missing = [] if processes else ["PRETRAINX_PROCESSES"]
    if process is None:
        missing += [] if "JOB_COMPLETION_INDEX" in environ else ["JOB_COMPLETION_INDEX"]
        process = _number(environ, "JOB_COMPLETION_INDEX", None)
    if coordinator is None:
        names = ("JOBSET_NAME", "REPLICATED_JOB_NAME")
        missing += [name for name in names if name not in environ]
        # The first pod of a JobSet's first job, by the headless service that bears the set's name.
        host = "{}-{}-0-0.{}".format(*(environ.get(name) for name in (*names, "JOBSET_NAME")))
        coordinator = f"{host}:{environ.get('JAX_COORDINATOR_PORT') or PORT}"
    _demand("gke", missing, "set PRETRAINX_PROCESSES to the number of pods, and the two names or PRETRAINX_COORDINATOR")
    return Plan("gke", coordinator, processes, process)


def _tpu(environ: Mapping[str, str], coordinator: str | None, processes: int | None, process: int | None) -> Plan:
    """A TPU slice, or several: JAX asks the metadata server or GKE's variables; what these say is only shown."""
    hosts = environ.get("TPU_PROCESS_ADDRESSES") or environ.get("TPU_WORKER_HOSTNAMES")
    slices = _number(environ, "MEGASCALE_NUM_SLICES", 1)
    if hosts and slices == 1:
        processes = processes or len(hosts.split(","))
        process = _number(environ, "TPU_WORKER_ID", None) if process is None else process
    return Plan("tpu", coordinator, processes, process)


def _number(environ: Mapping[str, str], name: str, default: int | None = None) -> int | None:
    text = environ.get(name)
    if text in (None, ""):
        return default
    try:
        return int(text)
    except ValueError:
        raise _misfit(name, f"{text!r} is no number", "a whole number") from None


def _demand(kind: str, missing: list[str], do: str = "") -> None:
    if missing:
        raise ConfigError(
            "the environment does not say how the processes find each other",
            where=f"config.distributed.kind={kind}",
            why="missing: " + ", ".join(missing),
            do=do or "set them, or set coordinator, processes and process_id in config.distributed",
        )


def _misfit(where: str, why: str, do: str) -> ConfigError:
    return ConfigError("the processes of the run cannot be as stated", where=where, why=why, do=f"expected: {do}")
