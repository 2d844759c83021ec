"""What XLA's compiler asks of a GPU that is not there: one table of `GpuTargetConfig` fields for each type."""

from __future__ import annotations

# Of compute capability 9.0, which H100 and H200 share: limits of CUDA's "Compute Capabilities" tables, sizes of the SXM boards.
_HOPPER = {
    "threads_per_block_limit": 1024,
    "threads_per_warp": 32,
    "shared_memory_per_block": 49152,
    "shared_memory_per_core": 233472,
    "threads_per_core_limit": 2048,
    "core_count": 132,
    "fpus_per_core": 128,
    "block_dim_limit_x": 2147483647,
    "block_dim_limit_y": 65535,
    "block_dim_limit_z": 65535,
    "l2_cache_size": 52428800,
    "clock_rate_ghz": 1.98,
    "shared_memory_per_block_optin": 232448,
    "registers_per_core_limit": 65536,
    "registers_per_block_limit": 65536,
}
TARGETS = {
    "h100": ("NVIDIA H100 80GB HBM3", {"memory_bandwidth": 3352320000000, "device_memory_size": 84978434048}),
    "h200": ("NVIDIA H200", {"memory_bandwidth": 4800000000000, "device_memory_size": 150109028352}),
}
# Of the device: XLA_PYTHON_CLIENT_MEM_FRACTION as launch/xla_flags.py sets it; by default JAX takes 0.75.
FRACTION = 0.9


def usable(name: str) -> int:
    """Bytes that JAX may take of a GPU of this type."""
    return int(FRACTION * TARGETS[name][1]["device_memory_size"])


def text(name: str) -> str:
    """The message in text form."""
    called, sizes = TARGETS[name]
    fields = "\n".join(f"  {field}: {value}" for field, value in (_HOPPER | sizes).items())
    return (
        f"gpu_device_info {{\n{fields}\n  cuda_compute_capability {{ major: 9 minor: 0 }}\n}}\n"
        f'platform_name: "CUDA"\ndnn_version_info {{ major: 9 minor: 8 }}\ndevice_description_str: "{called}"\n'
    )
