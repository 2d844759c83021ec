"""A run without its wrappers: one model as other programs know it, its updates merged into the weights."""

from __future__ import annotations

import dataclasses

from pretrainx.adapt.linear_probe import LinearProbe
from pretrainx.adapt.lora import Lora
from pretrainx.adapt.methods import METHODS, PRESERVING
from pretrainx.adapt.preserving import Preserving, effective
from pretrainx.adapt.wrapper import Wrapper, innermost
from pretrainx.core.errors import ConfigError
from pretrainx.runs.load import Run


def unwrapped(run: Run) -> Run:
    """The same function as a plain objective with plain parameters; the run itself where nothing is around its objective.

    Raises ConfigError where what was learned stands beside the model's weights and cannot be merged into them.
    """
    objective, extras = run.objective, run.extras
    if not isinstance(objective, Wrapper):
        return run
    while isinstance(objective, Wrapper):
        if not isinstance(objective, (Lora, LinearProbe, Preserving)):
            raise ConfigError(
                "what the run inserted into its model has no place in the model's own weights",
                where="config.adapt.name",
                why=f"it is a {type(objective).__name__}",
                do="use the run as it is (pretrainx.load), or train with config.adapt.name 'lora' or 'full'",
            )
        extras = extras["inner"] if isinstance(objective, Preserving) else extras
        objective = objective.inner
    plain = dataclasses.replace(run.config, adapt=METHODS["full"](), preserve=PRESERVING["none"]())
    params = effective(run.objective, run.params)
    return dataclasses.replace(run, config=plain, objective=innermost(run.objective), params=params, extras=extras)


def without_head(run: Run) -> Run:
    """The pretrained model of a run of a task on text: its parameters without the task's head, and its own form."""
    params = {name: tree for name, tree in run.params.items() if name not in run.objective.heads}
    config = dataclasses.replace(run.config, model=run.objective.model.config)
    return dataclasses.replace(run, config=config, params=params)
