"""Operations counted from a traced program: loops times their length, branches once, recomputed products again."""

import jax
import jax.numpy as jnp
import pytest

from pretrainx.runs.operations import matmul_flops

X, W = jnp.ones((8, 16)), jnp.ones((16, 16))
ONE = 2 * 8 * 16 * 16


def count(function, *arguments):
    return matmul_flops(jax.jit(function).trace(*arguments).jaxpr)


def test_products_and_loops():
    assert count(lambda x, w: x @ w, X, W) == ONE
    assert count(lambda x, w: jax.lax.scan(lambda c, _: (c @ w, None), x, None, length=7)[0], X, W) == 7 * ONE
    assert count(lambda x, w: jax.lax.cond(x[0, 0] > 0, lambda: x @ w @ w, lambda: x @ w), X, W) == 2 * ONE
    assert count(jax.vmap(lambda x, w: x @ w, (0, None)), X[None].repeat(3, 0), W) == 3 * ONE
    assert count(lambda x: jnp.tanh(x).sum(), X) == 0


def test_what_one_branch_leaves_out_counts_half():
    """As of a causal ring, which skips half of what arrives."""
    assert count(lambda x, w: jax.lax.cond(x[0, 0] > 0, lambda: x @ w, lambda: x), X, W) == ONE / 2
    around = lambda x, w: jax.lax.fori_loop(0, 4, lambda i, c: jax.lax.cond(i > 1, lambda: c @ w, lambda: c), x)
    assert count(around, X, W) == 4 * ONE / 2


def test_gradients_and_what_is_recomputed():
    loss = lambda w, x: jnp.tanh(jnp.tanh(x @ w) @ w).sum()
    assert count(jax.grad(loss), W, X) == 5 * ONE  # of the input there is none
    assert count(jax.grad(jax.checkpoint(loss)), W, X) == 7 * ONE


def test_parts_of_devices_count_for_all():
    """Of the axes that are its own: over others the compiler divides the product."""
    mesh = jax.make_mesh((4, 2), ("data", "fsdp"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    split = jax.sharding.PartitionSpec("data")
    given = dict(mesh=mesh, in_specs=split, out_specs=split, axis_names={"data"})
    assert count(lambda x: jax.shard_map(lambda part: part @ W, **given)(x), X) == ONE


@pytest.mark.parametrize("stride", [1, 2])
def test_convolutions(stride):
    """Forward 2 x outputs x kernel; both gradients as much again, whatever the stride."""
    x, kernel = jnp.ones((2, 8, 8, 3)), jnp.ones((3, 3, 3, 5))
    numbers = ("NHWC", "HWIO", "NHWC")
    apply = lambda x, k: jax.lax.conv_general_dilated(x, k, (stride, stride), "SAME", dimension_numbers=numbers)
    forward = 2 * 2 * (8 // stride) ** 2 * 5 * 3 * 3 * 3
    assert count(apply, x, kernel) == forward
    both = jax.grad(lambda x, k: jnp.square(apply(x, k)).sum(), (0, 1))
    assert count(both, x, kernel) == pytest.approx(3 * forward, rel=0.3)
