"""The linear probe: what a task adds is trained on features of a network that stands still."""

from __future__ import annotations

from dataclasses import dataclass

from pretrainx.adapt.wrapper import Frozen
from pretrainx.core.errors import ConfigError
from pretrainx.objectives.objective import Objective


@dataclass(frozen=True)
class LinearProbeConfig:
    """The section `config.adapt`. The network is frozen and runs as in evaluation, without dropout and with BatchNorm's running
    statistics; augmentation stays that of config.objective."""

    def wrap(self, objective: Objective) -> LinearProbe:
        return LinearProbe(objective)


@dataclass(frozen=True)
class LinearProbe(Frozen):
    """Trains the heads that the task adds, nothing else."""

    def __post_init__(self):
        if not self.inner.heads:
            raise ConfigError(
                "there is no head to train on a frozen network",
                where="config.adapt.name",
                why=f"{type(self.inner).__name__} adds none to the pretrained model",
                do="an objective with one, such as classification, or another config.adapt.name",
            )

    def encode(self, params, extras, observation, keys, step, *, train):
        return super().encode(params, extras, observation, keys, step, train=False)

    def outputs(self, params, extras, inputs, names, key=None, *, train=False):
        return super().outputs(params, extras, inputs, names, key, train=False)
