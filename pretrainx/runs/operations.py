"""Floating-point operations of a traced program, counted: every matrix product and convolution, as often as it runs."""

from __future__ import annotations

import math

import jax
from jax.extend import core


def matmul_flops(jaxpr, branches: float = 1.0) -> float:
    """2 per multiply-add of the whole program on all devices, loops times their length; recomputed products count again.

    Element-wise work is not counted, nor are loops of unknown length beyond one pass. Of branches the dearest counts, and half
    of it where another one multiplies nothing: around a ring a causal mask hides half of what arrives. A kernel skips blocks
    that are hidden so, and all its branches count half.
    """
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    return sum(_of(equation, branches) for equation in jaxpr.eqns)


def _of(equation, branches: float) -> float:
    name, parameters = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = parameters["dimension_numbers"]
        depth = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
        return 2.0 * depth * math.prod(equation.outvars[0].aval.shape)
    if name == "conv_general_dilated":
        return _convolution(equation)
    if name == "scan":
        return parameters["length"] * matmul_flops(parameters["jaxpr"], branches)
    if name == "cond":
        costs = [matmul_flops(each, branches) for each in parameters["branches"]]
        return max(costs) * (branches if min(costs) else min(branches, 0.5))
    if name == "shard_map":  # what one device does of the axes that are its own
        devices = math.prod(parameters["mesh"].shape[axis] for axis in parameters["newly_manual_axes"])
        return devices * matmul_flops(parameters["jaxpr"], branches)
    if name == "pallas_call":
        grid = [size for size in parameters["grid_mapping"].grid if isinstance(size, int)]
        return math.prod(grid) * matmul_flops(parameters["jaxpr"], branches=0.5)
    inner = jax.tree.leaves(list(parameters.values()), is_leaf=_is_program)
    return sum(matmul_flops(each, branches) for each in inner if _is_program(each))


def _convolution(equation) -> float:
    """Each output element reads the kernel once, except over zeros that stand between the inputs of a gradient."""
    kernel, out, parameters = equation.invars[1].aval, equation.outvars[0].aval, equation.params
    _, spec, _ = parameters["dimension_numbers"]
    places = math.prod(kernel.shape[axis] for axis in spec[2:])
    dilated = math.prod(parameters["lhs_dilation"])
    return 2.0 * math.prod(out.shape) * kernel.shape[spec[1]] * places / dilated


def _is_program(value) -> bool:
    return isinstance(value, (core.Jaxpr, core.ClosedJaxpr))
