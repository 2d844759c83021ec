"""Compiled programs are kept on disk between processes: the second start of a recipe takes seconds less."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import jax
from jax.experimental.compilation_cache.compilation_cache import reset_cache


def keep_compiled_programs() -> str:
    """Switches JAX's persistent compilation cache on and returns its directory. JAX_COMPILATION_CACHE_DIR overrides it.

    Must run before the first computation of the process.
    """
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    directory = os.environ.get("JAX_COMPILATION_CACHE_DIR") or str(Path(home) / "pretrainx" / "compiled")
    jax.config.update("jax_compilation_cache_dir", directory)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return directory


@contextlib.contextmanager
def uncached() -> Iterator[None]:
    """What compiles inside is neither looked up in that cache nor kept: programs for described devices cannot be read back."""
    enabled = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    reset_cache()  # else the answer of the process's first compilation stays in force
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", enabled)
        reset_cache()
