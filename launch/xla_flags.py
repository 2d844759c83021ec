#!/usr/bin/env python3
"""XLA's flags per platform: which are worth setting, where that is said, and for which versions they were checked.

    python launch/xla_flags.py --list                                            the table
    eval "$(python launch/xla_flags.py --platform=v5e)"                          for this shell
    python launch/xla_flags.py --platform=v5p --with=sdc -- pretrainx train ...  for one command
    python launch/xla_flags.py --platform=v6e --check                            by the versions that are installed

An unknown flag ends a process at its start, and flags come and go with versions: `--check` asks the installed jaxlib or libtpu,
for which no accelerator is needed. Flags of the environment come after those of the table, and so win.

The gains are their authors'; none was measured here. Needs nothing but Python, `--check` also jax (and libtpu for TPUs).
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import shlex
import subprocess
import sys
from dataclasses import dataclass

CHECKED = {"jax": "0.10.2", "libtpu": "0.0.42.1"}
MAXTEXT = "MaxText, benchmarks/xla_flags_library.py"
MAXTEXT_GPU = "MaxText, src/maxtext/configs/gpu/a3/llama_2_7b/1vm.sh"
JAX_GPU = "JAX documentation, GPU performance tips"


@dataclass(frozen=True)
class FlagSet:
    """Flags that belong together. `flags` are written without "--xla_"; `environment` is what is set beside them."""

    why: str
    source: str
    flags: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()


SETS = {
    "memory": FlagSet(
        "nine tenths of a GPU's memory are taken at the start, where JAX takes three quarters",
        "JAX documentation, GPU memory allocation; JAX-Toolbox uses .8 to .9",
        environment=(("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.9"),),
    ),
    "triton": FlagSet("products by Triton where it is faster", JAX_GPU, ("gpu_triton_gemm_any=true",)),
    "gpu_overlap": FlagSet(
        "collectives of several GPUs run beside the computation, in large pieces; products by cuBLAS",
        MAXTEXT_GPU,
        (
            "gpu_enable_latency_hiding_scheduler=true",
            "gpu_enable_triton_gemm=false",
            "gpu_enable_command_buffer=",
            "gpu_enable_highest_priority_async_stream=true",
            "gpu_all_reduce_combine_threshold_bytes=134217728",
            "gpu_all_gather_combine_threshold_bytes=134217728",
            "gpu_reduce_scatter_combine_threshold_bytes=67108864",
            "gpu_enable_pipelined_all_gather=true",
            "gpu_enable_pipelined_reduce_scatter=true",
            "gpu_enable_pipelined_all_reduce=true",
            "gpu_enable_while_loop_double_buffering=true",
            "gpu_enable_all_gather_combine_by_dim=false",
            "gpu_enable_reduce_scatter_combine_by_dim=false",
            "disable_hlo_passes=rematerialization",
        ),
    ),
    "data_parallel": FlagSet(
        "the gradients' all-reduce runs beside the backward pass",
        MAXTEXT,
        ("tpu_enable_data_parallel_all_reduce_opt=true", "tpu_data_parallel_opt_different_sized_ops=true"),
    ),
    "all_gather": FlagSet(
        "weights are gathered while the layer before them computes",
        MAXTEXT,
        (
            "tpu_enable_async_collective_fusion=true",
            "tpu_enable_async_collective_fusion_fuse_all_gather=true",
            "tpu_enable_async_collective_fusion_multiple_steps=true",
            "tpu_overlap_compute_collective_tc=true",
            "enable_async_all_gather=true",
        ),
    ),
    "all_reduce": FlagSet(
        "the same for all-reduce, as tensor parallelism has it",
        MAXTEXT,
        (
            "tpu_enable_async_collective_fusion=true",
            "tpu_enable_async_collective_fusion_fuse_all_reduce=true",
            "tpu_enable_async_collective_fusion_multiple_steps=true",
            "tpu_overlap_compute_collective_tc=true",
            "enable_async_all_reduce=true",
        ),
    ),
    "backward": FlagSet(
        "the backward pass gathers ahead too; for chips of two cores",
        MAXTEXT,
        (
            "tpu_enable_ag_backward_pipelining=true",
            "tpu_megacore_fusion_allow_ags=false",
            "enable_async_collective_permute=true",
        ),
    ),
    "vmem": FlagSet("more scoped memory for fusions, dense models", MAXTEXT, ("tpu_scoped_vmem_limit_kib=98304",)),
    "vmem_experts": FlagSet("the same for mixtures of experts", MAXTEXT, ("tpu_scoped_vmem_limit_kib=81920",)),
    "sparse_core": FlagSet(
        "collectives run on v6e's SparseCores",
        MAXTEXT,
        (
            "tpu_enable_async_collective_fusion_fuse_all_gather=false",
            "tpu_enable_async_collective_fusion_fuse_all_reduce=false",
            "tpu_enable_async_collective_fusion_fuse_reduce_scatter=false",
            "tpu_enable_sparse_core_collective_offload_all_gather=true",
            "tpu_enable_sparse_core_collective_offload_reduce_scatter=true",
            "tpu_enable_sparse_core_collective_offload_all_reduce=true",
            "tpu_enable_all_gather_offload_tracing=true",
            "tpu_enable_reduce_scatter_offload_tracing=true",
            "tpu_enable_all_reduce_offload_tracing=true",
            "tpu_use_tc_device_shape_on_sc=true",
            "sc_enable_instruction_fusion=false",
            "sc_disjoint_spmem=false",
            "sc_disable_megacore_partitioning=true",
        ),
    ),
    "reduce_scatter": FlagSet(
        "a layout in which gradients are scattered without a copy",
        MAXTEXT,
        (
            "tpu_use_minor_sharding_for_major_trivial_input=true",
            "tpu_relayout_group_size_threshold_for_reduce_scatter=1",
            "tpu_assign_all_reduce_scatter_layout=true",
        ),
    ),
    "host_offload": FlagSet(
        "activations that remat moves to the host travel beside the computation",
        MAXTEXT,
        (
            "tpu_enable_all_experimental_scheduler_features=true",
            "tpu_enable_scheduler_memory_pressure_tracking=true",
            "tpu_host_transfer_overlap_limit=24",
            "tpu_aggressive_opt_barrier_removal=ENABLED",
            "lhs_prioritize_async_depth_over_stall=ENABLED",
            "tpu_enable_ag_backward_pipelining=true",
            "should_allow_loop_variant_parameter_in_chain=ENABLED",
            "should_add_loop_invariant_op_in_chain=ENABLED",
            "max_concurrent_host_send_recv=100",
            "tpu_scheduler_percent_shared_memory_limit=100",
            "latency_hiding_scheduler_rerun=2",
        ),
    ),
    "no_collective_matmul": FlagSet(
        "products are not cut up around their collectives",
        MAXTEXT,
        ("jf_spmd_threshold_for_windowed_einsum_mib=1000000",),
    ),
    "sdc": FlagSet(
        "silent data corruption: programs run again on the same data, and a difference ends the run",
        MAXTEXT,
        (
            "tpu_enable_sdc_checker=true",
            "tpu_sdc_check_halt_on_detection=true",
            "tpu_sdc_replicate_llo=true",
            "tpu_sdc_check_repeat_count=5",
        ),
    ),
}
# What a platform starts with; --with adds others, later ones winning.
PLATFORMS = {
    "gpu": ("memory", "triton"),
    "gpu-multi": ("memory", "gpu_overlap"),
    "v5e": ("data_parallel", "all_gather"),
    "v5p": ("data_parallel", "all_gather", "backward"),
    "v6e": ("data_parallel", "all_gather", "vmem"),
}


def of_gpu(platform: str) -> bool:
    return platform.startswith("gpu")


def variables(platform: str, more: tuple[str, ...] = ()) -> dict[str, str]:
    """What a platform's environment gets: the flags in one variable, and what is set beside them."""
    chosen = [SETS[name] for name in (*PLATFORMS[platform], *more)]
    flags = dict(flag.split("=", 1) for each in chosen for flag in each.flags)  # of one flag the last value
    name = "XLA_FLAGS" if of_gpu(platform) else "LIBTPU_INIT_ARGS"
    found = {name: " ".join(f"--xla_{flag}={value}" for flag, value in flags.items())} if flags else {}
    return found | {key: value for each in chosen for key, value in each.environment}


def joined(platform: str, more: tuple[str, ...], environ: dict[str, str]) -> dict[str, str]:
    """The variables with what the environment has: its flags at the end, its other variables instead."""
    found = variables(platform, more)
    flags = {
        name: f"{found[name]} {environ.get(name, '')}".strip() for name in found if name.endswith(("FLAGS", "ARGS"))
    }
    return {name: environ.get(name, value) for name, value in found.items()} | flags


def exports(platform: str, more: tuple[str, ...] = ()) -> list[str]:
    """Lines for a shell."""
    lines = []
    for name, value in variables(platform, more).items():
        if name.endswith(("FLAGS", "ARGS")):
            lines.append(f'export {name}={shlex.quote(value)}"${{{name}:+ ${name}}}"')
        else:
            lines.append(f'export {name}="${{{name}:-{value}}}"')
    return lines


def table() -> list[str]:
    lines = [f"{platform}: {', '.join(names)}" for platform, names in PLATFORMS.items()]
    for name, each in SETS.items():
        lines += ["", f"{name}: {each.why}", f"  source: {each.source}"]
        lines += [f"  --xla_{flag}" for flag in each.flags] + [f"  {key}={value}" for key, value in each.environment]
    return lines


def misfit(platform: str) -> str:
    """Says where the versions are others than those that the table was checked with; "" where they are not, or none is here."""
    package = "jax" if of_gpu(platform) else "libtpu"
    try:
        here = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
    if here == CHECKED[package]:
        return ""
    return f"checked with {package} {CHECKED[package]}, here is {here}: an unknown flag ends a process at once; see --check"


# Starts the runtime that reads the flags. A TPU's compiles for a slice that is only described.
START = {
    True: "import jax; jax.devices()",
    False: "from jax.experimental.topologies import get_topology_desc; get_topology_desc(platform='tpu', topology_name={!r})",
}
SLICES = {"v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2"}


def refusal(platform: str, more: tuple[str, ...] = ()) -> str:
    """What the installed runtime says against the flags; "" where it takes them."""
    described = {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    described |= {"TPU_WORKER_HOSTNAMES": "localhost", "TPU_ACCELERATOR_TYPE": "v5litepod-4"}
    environ = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "LIBTPU_INIT_ARGS")}
    code = START[of_gpu(platform)].format(SLICES.get(platform))
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, env=environ | described | variables(platform, more), capture_output=True, text=True)
    lines = [line for line in done.stderr.splitlines() if "nknown" in line] or done.stderr.strip().splitlines()[-1:]
    return (lines or ["ended without a word"])[0] if done.returncode else ""


def names(text: str) -> tuple[str, ...]:
    found = tuple(name for name in text.split(",") if name)
    for name in found:
        if name not in SETS:
            raise argparse.ArgumentTypeError(f"no set {name!r}; there are {', '.join(SETS)}")
    return found


def main() -> int:
    words = sys.argv[1:]
    own, command = (words[: words.index("--")], words[words.index("--") + 1 :]) if "--" in words else (words, [])
    parser = argparse.ArgumentParser(
        prog="launch/xla_flags.py",
        description="Prints or sets XLA's flags for a platform.",
        usage="%(prog)s --list | --platform=NAME [--with=SET,...] [--check | --print] [-- COMMAND ...]",
        allow_abbrev=False,
    )
    parser.add_argument("--platform", choices=PLATFORMS, help="what the run is on")
    parser.add_argument("--with", dest="more", type=names, default=(), help="sets beside the platform's own")
    parser.add_argument("--list", action="store_true", help="show the table")
    parser.add_argument("--check", action="store_true", help="ask the installed jaxlib or libtpu whether it takes them")
    parser.add_argument("--print", dest="show", action="store_true", help="show, run nothing")
    given = parser.parse_args(own)
    if given.list:
        print("\n".join(table()))
        return 0
    if not given.platform:
        parser.error("name a --platform, or --list")
    if given.check:
        refused = refusal(given.platform, given.more)
        print(f"refused: {refused}" if refused else "accepted")
        return int(bool(refused))
    if misfit(given.platform):
        print(f"launch: {misfit(given.platform)}", file=sys.stderr)
    if given.show or not command:
        print("\n".join([*exports(given.platform, given.more), *([shlex.join(command)] if command else [])]))
        return 0
    try:
        os.execvpe(command[0], command, os.environ | joined(given.platform, given.more, dict(os.environ)))
    except OSError as error:
        print(f"launch: {command[0]!r} cannot be started: {error.strerror}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
