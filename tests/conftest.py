"""Eight simulated devices for every test, a compilation cache that survives the run, settings that make tracing cheap."""

import gc
import os
import pathlib
import zlib

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Runs started by tests, in this process or another, share the cache.
CACHE = os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(pathlib.Path(__file__).parent.parent / ".jax_cache"))
# Tests compile much and run little: compiled without expensive passes, and not by the newer emitters of fusions, they take a
# third of the time, with the same results.
QUICK = ("backend_optimization_level=0", "llvm_disable_expensive_passes=true", "cpu_use_fusion_emitters=false")
os.environ.setdefault("XLA_FLAGS", " ".join(f"--xla_{flag}" for flag in QUICK))

# Tests trace and lower for most of their time: where each operation was written is a tenth of that, and nobody reads it.
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")
os.environ.setdefault("JAX_INCLUDE_FULL_TRACEBACKS_IN_LOCATIONS", "0")
gc.set_threshold(100_000, 20, 20)  # jaxprs are many small objects: looking for dead ones took another tenth

import jax  # noqa: E402

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_compilation_cache_dir", CACHE)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)  # writing takes longer than most compile
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def pytest_collection_modifyitems(config, items):
    """PRETRAINX_SHARE=3/16 keeps the fourth sixteenth of the tests marked `rotated`, and of the other slow ones the second half
    (3 is odd). Groups stay together, but for tests that share nothing and only must not run side by side:
    `rotated(alone=True)`; `rotated(of=1)` is always kept."""
    part, parts = map(int, os.environ.get("PRETRAINX_SHARE", "0/1").split("/"))

    def kept(item):
        rotated, group = item.get_closest_marker("rotated"), item.get_closest_marker("xdist_group")
        if rotated is None and item.get_closest_marker("slow") is None:
            return True
        alone = rotated is not None and rotated.kwargs.get("alone")
        of = rotated.kwargs.get("of", parts) if rotated else min(parts, 2)
        name = group.args[0] if group and not alone else item.nodeid
        return zlib.crc32(name.encode()) % of == part % of

    config.hook.pytest_deselected(items=[item for item in items if not kept(item)])
    items[:] = filter(kept, items)


def pytest_terminal_summary(terminalreporter):
    from contract.matrix import print_matrix

    print_matrix(terminalreporter)
