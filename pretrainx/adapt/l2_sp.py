"""L2-SP: weight decay towards the pretrained weights in place of zero (Li et al. 2018, equation 2)."""

from __future__ import annotations

from dataclasses import dataclass

from pretrainx.adapt.ewc import Ewc, scalar_importance
from pretrainx.adapt.preserving import Strength
from pretrainx.objectives.objective import Objective


@dataclass(frozen=True)
class L2SpConfig(Strength):
    """The section `config.preserve` that adds strength / 2 * |theta - theta0|^2 to the loss, theta0 what config.init_from gave.

    Heads of a new task are left out, and leaves that the source does not have.
    """

    def wrap(self, objective: Objective) -> L2Sp:
        return L2Sp(objective, self.coefficient)


@dataclass(frozen=True)
class L2Sp(Ewc):
    """Elastic weight consolidation whose importance is one number for each leaf: 1, or 0 for what the source does not have."""

    name = "l2_sp"

    def importance(self, leaf):
        return scalar_importance()
