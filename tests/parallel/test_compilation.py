"""Programs on disk: kept between processes, but for those that cannot be read back."""

import jax
import jax.numpy as jnp
from jax.experimental.compilation_cache.compilation_cache import reset_cache

from pretrainx.parallel.compilation import uncached


def test_a_process_that_keeps_programs_can_stop_and_go_on(tmp_path):
    """JAX asks once in a process whether there is a cache: the switch alone would change nothing."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    kept = lambda: len([path for path in tmp_path.iterdir() if path.name.endswith("-cache")])
    compiled = lambda size: jax.jit(lambda x: jnp.sin(x) @ x).lower(jnp.zeros((size, size))).compile()
    try:
        for name, value in zip(names, (str(tmp_path), 0.0), strict=True):
            jax.config.update(name, value)
        reset_cache()
        compiled(2)
        first = kept()
        with uncached():
            compiled(3)
        assert first and kept() == first
        compiled(4)
        assert kept() > first
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        reset_cache()
