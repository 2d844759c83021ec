"""The coordinate check: does what a model computes keep its size as the model grows, after some updates? (Yang et al. 2022,
appendix D.1; microsoft/mup)

A slope of log2 mean |x| against log2 width near zero is muP's promise; in the standard parametrisation it grows with each step.
The last step is judged: a head that does not start at zero, a tied one say, has a slope of -1/2 at the start, as it should, and
needs some updates to forget it.
The check is necessary and not sufficient: rates may fail to transfer all the same (lr_transfer.py measures that).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from pretrainx.adapt.inserted import intercepted
from pretrainx.core import random
from pretrainx.models.stack import Block
from pretrainx.models.stacked import Stack
from pretrainx.runs.data import Prepared
from pretrainx.scaling.widths import Trainer, resized, rows_of, trainer

LIMIT = 0.25  # of a slope; the standard parametrisation is above 0.4 within five steps
_BRANCHES = ("attention", "cross", "inner_mlp", "mlp")


@dataclass(frozen=True)
class Coordinates:
    """Attributes:
    widths: of the models, ascending. tensors: what was measured, in the order of the computation.
    sizes: float64[W, T, X], mean |x| at steps 1 (the start) .. T, over seeds the geometric mean.
    slopes: float64[T, X], of log2 size against log2 width.
    """

    widths: tuple[int, ...]
    tensors: tuple[str, ...]
    sizes: np.ndarray
    slopes: np.ndarray

    @property
    def largest(self) -> float:
        """The largest |slope| at the last step."""
        return float(np.abs(self.slopes[-1]).max())

    @property
    def passes(self) -> bool:
        return self.largest <= LIMIT

    def lines(self) -> list[str]:
        """A table: slopes of each tensor at each step, and mean |x| at the last one by width."""
        steps = range(1, len(self.slopes) + 1)
        name = max(map(len, self.tensors))
        head = f"{'tensor':<{name}}" + "".join(f"{f't={step}':>8}" for step in steps)
        head += f"   mean |x| at t={len(self.slopes)}, widths {', '.join(map(str, self.widths))}"
        rows = [head]
        for index, tensor in enumerate(self.tensors):
            slopes = "".join(f"{slope:>8.2f}" for slope in self.slopes[:, index])
            rows.append(f"{tensor:<{name}}{slopes}   " + "  ".join(f"{size:.3g}" for size in self.sizes[:, -1, index]))
        return rows

    def verdict(self) -> str:
        word, tensor = "PASS" if self.passes else "FAIL", self.tensors[int(np.abs(self.slopes[-1]).argmax())]
        return f"{word}: the largest |slope| at step {len(self.slopes)} is {self.largest:.2f} ({tensor}), limit {LIMIT}"


def check(
    values: dict[str, Any], data: Prepared, widths: Sequence[int], steps: int, seeds: int, rate: float, say: Callable
) -> Coordinates:
    """Trains the config's model on one batch at each width, with one rate, and measures before every update."""
    widths, found = tuple(sorted(widths)), []
    for width in widths:
        each = []
        for seed in range(seeds):
            changed = resized(values, width)
            changed["seed"] = changed.get("seed", 0) + seed
            each.append(trajectory(trainer(changed, data, flat=True), data, steps, rate))
        with np.errstate(divide="ignore"):  # a head that starts at zero
            found.append({name: np.exp(np.mean([np.log(one[name]) for one in each], axis=0)) for name in each[0]})
        say(f"width {width}: measured {len(found[-1])} tensors over {steps} steps")
    tensors = tuple(found[0])
    sizes = np.array([[one[name] for name in tensors] for one in found]).transpose(0, 2, 1)
    return Coordinates(widths, tensors, sizes, slopes_of(widths, sizes))


def slopes_of(widths: Sequence[int], sizes: np.ndarray) -> np.ndarray:
    """float64[T, X] of sizes float64[W, T, X]; infinite where a size is not finite or zero at one width only."""
    logs = np.log2(np.where(sizes > 0, sizes, np.nan))
    x = np.log2(np.asarray(widths, np.float64))
    x = (x - x.mean()) / ((x - x.mean()) ** 2).sum()
    slopes = np.tensordot(x, logs, 1)
    slopes = np.where(np.isfinite(slopes), slopes, np.inf)
    return np.where((sizes == 0).all(0), 0.0, slopes)  # a head that starts at zero has no size to grow


def trajectory(one: Trainer, data: Prepared, steps: int, rate: float) -> dict[str, list[float]]:
    """{tensor: mean |x| before updates 1, 2, ..}"""
    batch = one.placed(rows_of(data, one.recipe, one.parts).batch(0))
    state, step, measure = one.start(), one.step(), measured(one)
    found: dict[str, list[float]] = defaultdict(list)
    for number in range(steps):
        for name, size in measure(state, batch).items():
            found[name].append(size)
        if number < steps - 1:
            state, _ = step(state, batch, jnp.asarray(rate, jnp.float32))
    return dict(found)


def measured(one: Trainer) -> Callable[[Any, Any], dict[str, float]]:
    """(state, batch) -> {tensor: mean |x|} in the forward pass of the objective.

    Values of a scanned block leave the scan by a callback, with the number of the layer.
    """
    found: dict[str, list[float]] = defaultdict(list)
    objective, options = one.parts.objective, one.parts.options

    def note(size, layer, *, name):
        found[name if layer < 0 else f"{name} {layer}"].append(float(size))

    def forward(state, batch):
        with options.rules.bound():
            keys = objective.row_keys(random.stream(options.seed, random.OBSERVE), batch)
            observation = objective.observe_rows(keys, batch, 0)
            with intercepted(watcher(note)):
                return objective.encode(state.full_params(), state.extras, observation, keys, 0, train=False).totals

    run = jax.jit(forward)

    def measure(state, batch):
        found.clear()
        jax.block_until_ready(run(state, batch))
        jax.effects_barrier()
        return {name: float(np.mean(sizes)) for name, sizes in found.items()}

    return measure


def watcher(note: Callable):
    """An interceptor that tells `note` of embeddings, of each block's branches, of the end of the stream and of logits."""
    layers: list[jax.Array] = []

    def tell(y, name: str, layer=-1):
        y = jnp.abs((y[0] if isinstance(y, tuple) else y).astype(jnp.float32))
        real = y < jnp.finfo(jnp.float32).max / 4  # columns that pad a vocabulary are as low as can be
        size = jnp.where(real, y, 0).sum() / real.sum()
        jax.debug.callback(lambda size, layer: note(size, layer, name=name), size, layer, ordered=True)

    def intercept(call, args, kwargs, context):
        module, method = context.module, context.method_name
        inside = type(module) is Block and method == "__call__"
        if inside:
            layers.append(args[1])
        try:
            y = call(*args, **kwargs)
        finally:
            if inside:
                layers.pop()
        name = name_of(module, method)
        if name:
            tell(y, name, layers[-1] if type(module.parent) is Block else -1)
        return y

    return intercept


def name_of(module: nn.Module, method: str) -> str:
    """What a method's result is called in the table; "" where it is not in it."""
    path = [part for part in module.path if part != "layers"]
    if method == "__call__" and type(module.parent) is Block and module.name in _BRANCHES:
        return "/".join(path)
    if method == "__call__" and type(module) is Stack:
        return "/".join([*path, "residual end"])
    if method == "embed" and isinstance(getattr(module, "layers", None), Stack):
        return "/".join([*path, "embedding"])
    if method == "logits" or method == "__call__" and module.name == "classes":
        return "logits"
    return ""
