"""The optimizers by name: each a flat record of numbers, and the optax transforms that it stands for.

What goes by a parameter's norm or sides goes by role and layer (per_layer.py), never by a leaf's rank.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import optax

from pretrainx.core import axes
from pretrainx.optim import factored, muon, per_layer
from pretrainx.optim.moments import MOMENTS

ROLES = ("kernel", "bias", "norm", "embedding", "head", "scalar")
MATRICES = per_layer.MATRICES


# What comes before the first block in the models of this package.
INPUTS = "(.*/)?(token|position|type|embedding_norm|patches|class_token|mask_token)(/.*)?"


@dataclass(frozen=True)
class Group:
    """Parameters whose whole path matches `pattern` and that have the `role` ("" is any): their learning rate and weight
    decay are multiplied, those of a leaf in several groups by all of them.

    Attributes:
      layer_decay: k of layer-wise rates (Clark et al. 2020, section 3.1; BEiT and MAE fine-tune with 0.65 to 0.75): in a
        stack of L blocks the rate of block l = 1..L is multiplied by k^(L + 1 - l), that of the leaves that match `inputs`
        by k^(L + 1), and that of all others (final norm, heads) by 1. 1 / 2.6 are ULMFiT's discriminative rates.
      unfreeze_every: gradual unfreezing (Howard & Ruder 2018, section 3.3): what lies in no stack trains from the start, the
        last block joins after so many steps, the one before after twice as many, `inputs` last. A block that has not joined
        gets no update and no moment. 0 trains all from the start.
      inputs: the whole paths of what comes before the first block.
    """

    pattern: str = ".*"
    role: str = field(default="", metadata={"choices": ("", *ROLES)})
    rate: float = field(default=1.0, metadata={"min": 0})
    decay: float = field(default=1.0, metadata={"min": 0})
    layer_decay: float = field(default=1.0, metadata={"above": 0, "max": 1})
    unfreeze_every: int = field(default=0, metadata={"min": 0})
    inputs: str = INPUTS

    def has(self, path: str, role: str) -> bool:
        return self.role in ("", role) and re.fullmatch(self.pattern, path) is not None

    def is_input(self, path: str) -> bool:
        return re.fullmatch(self.inputs, path) is not None


class Decoupled:
    """What most optimizers share: decay is added beside the direction, not to the gradient, and then come the rates."""

    def parts(self, by_path: dict[str, axes.Names], decay: tuple, rates: list[tuple]) -> list[tuple]:
        """The optimizer as (name, transform) pairs, in order; `decay` and `rates` are such pairs."""
        return [self.direction(by_path), decay, *rates]


@dataclass(frozen=True)
class AdamWConfig(Decoupled):
    """AdamW (Loshchilov & Hutter 2019).

    Attributes:
      decays: the roles that decay.
      moments: in which dtype moments are kept, here as in the other optimizers: "params" is that of the parameters, "float32"
        is for parameters that are narrower, "bfloat16" takes a half of the memory (optim/moments.py: rounded at random).
    """

    b1: float = field(default=0.9, metadata={"min": 0, "below": 1})
    b2: float = field(default=0.95, metadata={"min": 0, "below": 1})
    epsilon: float = field(default=1e-8, metadata={"above": 0})
    weight_decay: float = field(default=0.1, metadata={"min": 0})
    decays: tuple[str, ...] = field(default=MATRICES, metadata={"choices": ROLES})
    groups: tuple[Group, ...] = ()
    moments: str = field(default="params", metadata={"choices": MOMENTS})

    def direction(self, by_path):
        return "adam", optax.scale_by_adam(self.b1, self.b2, self.epsilon)

    def algorithm(self, names: axes.Names, shape: tuple[int, ...]) -> str:
        """What updates a leaf, in a word."""
        return "adam"


@dataclass(frozen=True)
class SGDConfig(Decoupled):
    """Stochastic gradient descent with momentum.

    Attributes:
      nesterov: look-ahead momentum (Sutskever et al. 2013).
      coupled: decay is added to the gradient, before momentum, as torch.optim.SGD does (the recipes of ResNet and MoCo);
        a decay of 1e-4 there is about 1e-3 here without it, at momentum 0.9.
    """

    momentum: float = field(default=0.9, metadata={"min": 0, "below": 1})
    weight_decay: float = field(default=0.0, metadata={"min": 0})
    decays: tuple[str, ...] = field(default=MATRICES, metadata={"choices": ROLES})
    groups: tuple[Group, ...] = ()
    moments: str = field(default="params", metadata={"choices": MOMENTS})
    nesterov: bool = False
    coupled: bool = False

    def direction(self, by_path):
        return "momentum", optax.trace(self.momentum, self.nesterov)

    def parts(self, by_path, decay, rates):
        return [decay, self.direction(by_path), *rates] if self.coupled else super().parts(by_path, decay, rates)

    def algorithm(self, names, shape):
        return "sgd"


@dataclass(frozen=True)
class LionConfig(Decoupled):
    """Lion (Chen et al. 2023): the sign of an interpolated momentum. Its rate is 3 to 10 times smaller than AdamW's, its
    weight decay as much larger.
    """

    b1: float = field(default=0.9, metadata={"min": 0, "below": 1})
    b2: float = field(default=0.99, metadata={"min": 0, "below": 1})
    weight_decay: float = field(default=1.0, metadata={"min": 0})
    decays: tuple[str, ...] = field(default=MATRICES, metadata={"choices": ROLES})
    groups: tuple[Group, ...] = ()
    moments: str = field(default="params", metadata={"choices": MOMENTS})

    def direction(self, by_path):
        return "lion", optax.scale_by_lion(self.b1, self.b2)

    def algorithm(self, names, shape):
        return "lion"


@dataclass(frozen=True)
class AdafactorConfig(Decoupled):
    """Adafactor (Shazeer & Stern 2018) with each layer's matrices factored, and decay beside the direction as in AdamW.

    The defaults are T5's. CoCa and ViT-G (Zhai et al. 2022, section 3.4) take momentum 0.9, b2_max 0.999, relative False.

    Attributes:
      exponent: the second moment decays by 1 - n^-exponent at update n.
      b2_max: and by no more than this.
      epsilon: added to squared gradients.
      clip_rms: largest root mean square of one parameter's update; 0 is off.
      relative: updates are scaled by the parameter's own root mean square, at least 1e-3.
      momentum: of the scaled updates, without bias correction; 0 keeps none.
      factored_from: matrices of which both sides are at least so large are factored.
    """

    exponent: float = field(default=0.8, metadata={"above": 0, "max": 1})
    b2_max: float = field(default=1.0, metadata={"above": 0, "max": 1})
    epsilon: float = field(default=1e-30, metadata={"above": 0})
    clip_rms: float = field(default=1.0, metadata={"min": 0})
    relative: bool = True
    momentum: float = field(default=0.0, metadata={"min": 0, "below": 1})
    factored_from: int = field(default=128, metadata={"min": 1})
    weight_decay: float = field(default=0.0, metadata={"min": 0})
    decays: tuple[str, ...] = field(default=MATRICES, metadata={"choices": ROLES})
    groups: tuple[Group, ...] = ()
    moments: str = field(default="params", metadata={"choices": MOMENTS})

    def direction(self, by_path):
        moment = factored.scale_by_factored_rms(by_path, self.factored_from, self.exponent, self.b2_max, self.epsilon)
        parts = [("moment", moment)]
        if self.clip_rms > 0:
            parts.append(("clip_rms", per_layer.each(optax.clip_by_block_rms(self.clip_rms), by_path)))
        if self.relative:
            parts.append(("relative", per_layer.each(optax.scale_by_param_block_rms(), by_path)))
        if self.momentum > 0:
            parts.append(("momentum", optax.ema(self.momentum, debias=False)))
        return "adafactor", optax.named_chain(*parts)

    def algorithm(self, names, shape):
        return "factored" if factored.is_factored(names, shape, self.factored_from) else "rms"


@dataclass(frozen=True)
class LARSConfig:
    """LARS (You et al. 2017, algorithm 1): momentum of rate * trust * |w| / |g + decay w| * (g + decay w), norms per layer.

    `adapts` lists the roles whose rate is adapted; biases, norms and scalars take plain momentum steps (SimCLR).
    """

    momentum: float = field(default=0.9, metadata={"min": 0, "below": 1})
    nesterov: bool = False
    trust: float = field(default=1e-3, metadata={"above": 0})
    epsilon: float = field(default=0.0, metadata={"min": 0})
    weight_decay: float = field(default=1e-6, metadata={"min": 0})
    decays: tuple[str, ...] = field(default=MATRICES, metadata={"choices": ROLES})
    adapts: tuple[str, ...] = field(default=MATRICES, metadata={"choices": ROLES})
    groups: tuple[Group, ...] = ()
    moments: str = field(default="params", metadata={"choices": MOMENTS})

    def parts(self, by_path, decay, rates):
        ratio = optax.scale_by_trust_ratio(trust_coefficient=self.trust, eps=self.epsilon)
        adapted = per_layer.each(ratio, by_path, lambda names: axes.role(names) in self.adapts)
        # The rate enters before momentum: what was gathered at one rate is not scaled again when the schedule falls.
        return [decay, ("trust", adapted), *rates, ("velocity", optax.trace(self.momentum, self.nesterov))]

    def algorithm(self, names, shape):
        return "lars" if axes.role(names) in self.adapts else "sgd"


@dataclass(frozen=True)
class MuonConfig(AdamWConfig):
    """Muon (Jordan et al. 2024) on hidden matrices, AdamW on everything else (embeddings, head, norms, biases).

    Muon's updates are scaled by 0.2 sqrt(larger side), which gives them Adam's size (Liu et al. 2025): one rate serves both.
    A group of role `head` or `embedding` gives these a rate of their own.
    """

    momentum: float = field(default=0.95, metadata={"min": 0, "below": 1})

    def direction(self, by_path):
        _, adam = super().direction(by_path)
        return "muon", muon.by_role(by_path, self.momentum, adam)

    def algorithm(self, names, shape):
        return "muon" if axes.role(names) == "kernel" else "adam"


OPTIMIZERS = {
    "adafactor": AdafactorConfig,
    "adamw": AdamWConfig,
    "lars": LARSConfig,
    "lion": LionConfig,
    "muon": MuonConfig,
    "sgd": SGDConfig,
}
