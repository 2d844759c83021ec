"""A run of the smallest objective on one device, for tests that compute a step by hand."""

import jax
import numpy as np

from pretrainx.core.schedule import Ramp
from pretrainx.optim.optimizer import Optimizer, SGDConfig
from pretrainx.parallel.mesh import MeshConfig, make_mesh
from pretrainx.parallel.rules import Rules
from pretrainx.training import state as states
from pretrainx.training.step import Options, make_train_step

ROWS = 8
RATE = 0.125  # a power of two: updates are exact


class Small:
    """Plain descent, x - rate * gradient, unless told otherwise: parameters after a step show its gradient."""

    def __init__(
        self, objective, rows=ROWS, rate=Ramp(RATE, RATE, 1), optimizer=SGDConfig(momentum=0.0), clip=0.0, **options
    ):
        self.objective = objective
        self.options = Options(Rules(make_mesh(MeshConfig(), jax.devices()[:1])), seed=5, **options)
        self.found = states.layout(objective, rows)
        self.optimizer = Optimizer(optimizer, rate, clip, self.found.params_axes)
        self.state = states.create(objective, self.optimizer, self.options, self.found, rows)
        self.train = make_train_step(objective, self.optimizer, self.options, self.state)
        self.after = self.metrics = None

    def step(self, **fields):
        """One step; returns the state and the metrics on the host."""
        self.state, metrics = self.train(self.state, batch(**fields))
        self.after, self.metrics = jax.tree.map(np.array, (self.state, metrics))
        return self.after, self.metrics

    @property
    def gradients(self):
        """Of the first step."""
        init = states.create(self.objective, self.optimizer, self.options, self.found, len(self.state.extras["rows"]))
        return jax.tree.map(lambda old, new: (np.asarray(old) - new) / RATE, init.params, self.after.params)


def batch(rows=ROWS, seed=0, **fields):
    """Normal numbers, uneven fractional weights, all rows valid; any field may be given."""
    rng = np.random.default_rng(seed)
    made = {
        "x": rng.standard_normal((rows, 2)),
        "fit": rng.uniform(0, 1, rows).round(1),
        "size": np.ones(rows),
        "valid": np.ones(rows, bool),
    }
    return made | {name: np.asarray(value, made[name].dtype) for name, value in fields.items()}
