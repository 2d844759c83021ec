"""Eight simulated devices for every test, and a compilation cache that survives the run."""

import os
import pathlib

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Runs started by tests, in this process or another, share the cache.
CACHE = os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(pathlib.Path(__file__).parent.parent / ".jax_cache"))
# Tests compile much and run little: compiled without expensive passes they take half the time, with the same results.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true")

import jax  # noqa: E402

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_compilation_cache_dir", CACHE)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def pytest_terminal_summary(terminalreporter):
    from contract.matrix import print_matrix

    print_matrix(terminalreporter)
