"""Every schedule at every step against a formula in plain Python, and against optax's where it has one."""

import math

import jax
import numpy as np
import optax
import pytest

from pretrainx.core.errors import ConfigError
from pretrainx.optim.schedules import (
    SCHEDULES,
    ConstantConfig,
    CosineConfig,
    InverseSqrtConfig,
    LinearConfig,
    SlantedTriangularConfig,
    StableDecayConfig,
    StepConfig,
)
from pretrainx.runs.recipe import parse

STEPS = 40


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def rates(config, steps=STEPS):
    """The rates of all updates and of two beyond the last, through jit as in a step."""
    schedule = jax.jit(config.over(steps))
    return np.array([schedule(np.int32(step)) for step in range(steps + 2)])


def expected(formula, steps=STEPS):
    return np.array([formula(step) for step in range(steps + 2)])


def warm(warmup, after):
    """A formula with linear warm-up whose first rate is a `warmup`-th of the peak."""
    return lambda step: (step + 1) / warmup if step < warmup else after(step)


def clipped(step, start, length):
    return min(max((step - start) / length, 0.0), 1.0)


FORMULAS = {
    "constant": (ConstantConfig(3.0, 5), warm(5, lambda step: 1.0)),
    "cosine": (
        CosineConfig(3.0, 5, 0.2),
        warm(5, lambda step: 0.2 + 0.8 * (1 + math.cos(math.pi * clipped(step, 5, 35))) / 2),
    ),
    "slanted triangular": (
        SlantedTriangularConfig(3.0, 0.25, 16.0),
        lambda step: (1 + 15 * (step / 10 if step < 10 else max(1 - (step - 10) / (10 * (1 / 0.25 - 1)), 0))) / 16,
    ),
    "linear": (LinearConfig(3.0, 5, 0.2), warm(5, lambda step: 1 - 0.8 * clipped(step, 5, 35))),
    "linear to zero": (LinearConfig(3.0, 0), lambda step: 1 - clipped(step, 0, 40)),
    "wsd share": (StableDecayConfig(3.0, 5, 0.25, 0.2), warm(5, lambda step: 1 - 0.8 * clipped(step, 30, 10))),
    "wsd steps": (StableDecayConfig(3.0, 5, 8), warm(5, lambda step: 1 - clipped(step, 32, 8))),
    "wsd 1-sqrt": (
        StableDecayConfig(3.0, 5, 8, 0.1, "1-sqrt"),
        warm(5, lambda step: 0.1 + 0.9 * (1 - math.sqrt(clipped(step, 32, 8)))),
    ),
    "wsd touching": (StableDecayConfig(3.0, 5, 35), warm(5, lambda step: 1 - clipped(step, 5, 35))),
    "inverse_sqrt": (InverseSqrtConfig(3.0, 5), warm(5, lambda step: math.sqrt(5 / (step + 1)))),
    "inverse_sqrt flat": (InverseSqrtConfig(3.0, 5, False), lambda step: 1 / math.sqrt(max(step + 1, 5) / 5)),
    "step": (
        StepConfig(3.0, 5, (10, 0.5, 30), 0.3),
        warm(5, lambda step: 0.3 ** ((step >= 10) + (step >= 20) + (step >= 30))),
    ),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_formula(name):
    config, formula = FORMULAS[name]
    found = rates(config)
    np.testing.assert_allclose(found, 3.0 * expected(formula), rtol=1e-12, atol=1e-12)
    assert found[0] > 0 and found.max() <= 3.0 * (1 + 1e-12)
    assert config.over(STEPS) == config.over(STEPS) and hash(config.over(STEPS)) == hash(config.over(STEPS))


def test_every_name_has_a_formula():
    assert {type(config) for config, _ in FORMULAS.values()} == set(SCHEDULES.values())


def joined(after):
    """optax's warm-up from a fifth of the peak, reached at the fifth update, then another schedule."""
    return optax.join_schedules([optax.linear_schedule(0.6, 3.0, 4), after], [5])


OPTAX = {
    "cosine": lambda: joined(optax.cosine_decay_schedule(3.0, 35, 0.2)),
    "linear": lambda: joined(optax.linear_schedule(3.0, 0.6, 35)),
    "wsd share": lambda: joined(optax.linear_schedule(3.0, 0.6, 10, 25)),
    "step": lambda: joined(optax.piecewise_constant_schedule(3.0, {5: 0.3, 15: 0.3, 25: 0.3})),
}


@pytest.mark.parametrize("name", OPTAX)
def test_optax(name):
    np.testing.assert_allclose(rates(FORMULAS[name][0]), expected(OPTAX[name]()), rtol=1e-6)


@pytest.mark.parametrize("kind", [kind for kind in SCHEDULES.values() if hasattr(kind, "warmup")])
def test_warmup_as_long_as_the_run_refused(kind):
    with pytest.raises(ConfigError, match="warm-up is as long as the run") as caught:
        kind(warmup=STEPS).over(STEPS)
    assert caught.value.where == "config.schedule.warmup"
    kind(warmup=7).over(STEPS)


@pytest.mark.parametrize("decay", [36, 0.9, 0.01], ids=str)
def test_decay_that_does_not_fit_refused(decay):
    with pytest.raises(ConfigError, match="does not fit") as caught:
        StableDecayConfig(3.0, 5, decay).over(STEPS)
    assert caught.value.where == "config.schedule.decay"


def test_fraction_of_a_step_refused():
    with pytest.raises(ConfigError, match="neither a share of the run nor a whole number") as caught:
        StableDecayConfig(3.0, 5, 8.5).over(STEPS)
    assert caught.value.where == "config.schedule.decay" and caught.value.why == "8.5"


@pytest.mark.parametrize("milestones", [(), (20, 10), (20, 0.5), (4,), (40,), (0.001,)], ids=str)
def test_milestones_out_of_order_refused(milestones):
    """None, falling, equal, within the warm-up, at the end, rounded to the first step."""
    with pytest.raises(ConfigError, match="milestones are not steps in order") as caught:
        StepConfig(3.0, 5, milestones).over(STEPS)
    assert caught.value.where == "config.schedule.milestones"


def test_by_name_in_a_recipe():
    """Sections choose by name, and what a schedule refuses is told with its key."""
    recipe = {"train": {"steps": STEPS, "batch_size": 8}}
    for name, kind in SCHEDULES.items():
        given = {} if kind is SlantedTriangularConfig else {"warmup": 7}
        assert parse(recipe | {"schedule": {"name": name, **given}}).schedule == kind(**given)
    with pytest.raises(ConfigError, match=r"config\.schedule\.decay"):
        parse(recipe | {"schedule": {"name": "wsd", "warmup": 7, "decay": 0.9}})
    with pytest.raises(ConfigError, match=r"config\.schedule\.shape: 'sqrt' is not a choice"):
        parse(recipe | {"schedule": {"name": "wsd", "warmup": 7, "shape": "sqrt"}})
