"""The tables of what `config.adapt` and `config.preserve` choose from: how a pretrained model is changed, and what keeps it."""

from __future__ import annotations

from dataclasses import dataclass

from pretrainx.adapt.adapter import AdapterConfig
from pretrainx.adapt.distill import DistillConfig
from pretrainx.adapt.ewc import EwcConfig
from pretrainx.adapt.ia3 import Ia3Config
from pretrainx.adapt.l2_sp import L2SpConfig
from pretrainx.adapt.linear_probe import LinearProbeConfig
from pretrainx.adapt.lora import LoraConfig
from pretrainx.adapt.prefix import PrefixConfig
from pretrainx.adapt.prompt import PromptConfig
from pretrainx.objectives.objective import Objective


@dataclass(frozen=True)
class FullConfig:
    """Every parameter is trained."""

    def wrap(self, objective: Objective) -> Objective:
        return objective


@dataclass(frozen=True)
class NothingConfig:
    """Nothing but the task's own loss."""

    def wrap(self, objective: Objective) -> Objective:
        return objective


# A new wrapper is one file and one line here. Each config has `wrap(objective) -> objective`.
METHODS = {
    "full": FullConfig,
    "linear_probe": LinearProbeConfig,
    "lora": LoraConfig,
    "adapter": AdapterConfig,
    "prompt": PromptConfig,
    "prefix": PrefixConfig,
    "ia3": Ia3Config,
}
# What stands around the adapted objective and protects what the model knew.
PRESERVING = {"none": NothingConfig, "ewc": EwcConfig, "l2_sp": L2SpConfig, "distill": DistillConfig}
