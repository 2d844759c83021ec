"""The stand-in for cuDNN's attention computes the same, masks and shared heads included, and keeps no scores."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pretrainx.models import kernels, streamed


@pytest.mark.parametrize("causal, window, segmented", [(True, 0, False), (True, 100, True), (False, 0, True)])
def test_it_is_attention(monkeypatch, causal, window, segmented):
    monkeypatch.setattr(streamed, "BLOCK", 16)  # two blocks in each of eight pieces
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = ((2, 256, 4, 8), (2, 256, 2, 8), (2, 256, 2, 8))
    arrays = tuple(jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=False))
    segments = jnp.asarray(np.repeat([[0, 1, 2, 3], [0, 0, 1, 2]], 64, axis=1)) if segmented else None
    direction = jax.random.normal(keys[3], shapes[0])

    def theirs(arrays):
        options = dict(causal=causal, window=window, segments=segments, kernel="xla")
        return (kernels.attention(*arrays, **options) * direction).sum()

    def ours(arrays):
        at = jnp.arange(256)
        of = lambda times: None if segments is None else segments[:, times]
        mask_of = lambda times: kernels.visible(times, at, causal, window, of(times), segments)
        return (streamed.attention(*arrays, mask_of, causal=causal) * direction).sum()

    wanted, found = jax.jit(jax.value_and_grad(theirs))(arrays), jax.jit(jax.value_and_grad(ours))(arrays)
    for one, other in zip(jax.tree.leaves(wanted), jax.tree.leaves(found), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4, rtol=1e-4)


def test_nothing_as_large_as_the_scores_is_kept():
    """Residuals of a row of 2,048 tokens: inputs, and keys once more for each piece, but no scores."""
    shape = jax.ShapeDtypeStruct((1, 2048, 2, 8), jnp.bfloat16)
    at = jnp.arange(2048)
    mask_of = lambda times: kernels.visible(times, at, True)
    _, pull = jax.eval_shape(
        lambda *arrays: jax.vjp(lambda *xs: streamed.attention(*xs, mask_of, causal=True), *arrays), *[shape] * 3
    )
    kept = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(pull))
    assert 0 < kept < 2048 * 2048 * 2 * 4 / 20
