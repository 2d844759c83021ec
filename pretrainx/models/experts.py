"""A mixture of experts in the place of a block's MLP: each token goes to few of many (Shazeer et al. 2017; GShard: Lepikhin et
al. 2021; Switch: Fedus et al. 2022; Mixtral: Jiang et al. 2024)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct
from jax.ad_checkpoint import checkpoint_name

from pretrainx.core.errors import ConfigError
from pretrainx.models import kernels
from pretrainx.models.layers import ACTIVATIONS, LAWS, Linear, Precision, Spread, wide
from pretrainx.parallel import dispatch
from pretrainx.parallel.rules import constrain

if TYPE_CHECKING:
    from pretrainx.models.stack import StackConfig

# Logical axes of the kernels of an MLP, one of each for every expert.
KERNELS = {
    "gate": ("experts", "embed", "mlp"),
    "up": ("experts", "embed", "mlp"),
    "down": ("experts", "mlp", "embed"),
}


@dataclass(frozen=True)
class ExpertsConfig:
    """The section `config.model.experts` of a decoder.

    Attributes:
      count: E, MLPs in each block; 0: one that all tokens go through.
      chosen: K, how many of them a token goes through.
      normalised: the gates of a token's K experts add up to one (Mixtral); otherwise they are the router's probabilities, whose
        rest is lost (Switch, which has K = 1: with one expert a normalised gate would be 1, and the router learn nothing).
      dispatch: "capacity": an expert takes so many tokens of a row, and what comes later passes it by on the residual stream;
        "ragged": none is dropped, tokens are sorted by expert (Gale et al. 2023; on a mesh with a ragged all-to-all).
      capacity: an expert has ceil(capacity x T x K / E) places for a row's T tokens.
      balance: coefficient of the load-balance loss, added for each block (Fedus et al. 2022, section 2.2).
      z: coefficient of the router's z-loss (Zoph et al. 2022, section 3.2), added for each block.
    """

    count: int = field(default=0, metadata={"min": 0})
    chosen: int = field(default=2, metadata={"min": 1})
    normalised: bool = True
    dispatch: str = field(default="capacity", metadata={"choices": ("capacity", "ragged")})
    capacity: float = field(default=1.25, metadata={"above": 0})
    balance: float = field(default=0.01, metadata={"min": 0})
    z: float = field(default=0.001, metadata={"min": 0})

    def __post_init__(self):
        if self.count and self.chosen > self.count:
            raise ConfigError(
                "a token goes through more experts than there are",
                where="config.model.experts.chosen",
                why=f"{self.chosen} of {self.count}",
                do=f"--config.model.experts.chosen={min(2, self.count)}, or more experts",
            )
        if self.count and self.chosen == 1 and self.normalised:
            raise ConfigError(
                "the router would learn nothing",
                where="config.model.experts.normalised",
                why="a token's one gate is made 1, whatever the router says",
                do="--config.model.experts.normalised=False, or --config.model.experts.chosen=2",
            )

    def places(self, length: int) -> int:
        """C, the places of an expert for a row of so many tokens."""
        return min(length, math.ceil(self.capacity * length * self.chosen / self.count))


@struct.dataclass
class Routing:
    """How the tokens of each row were routed, padding not counted: float32 or wider [B], in a stack [L, B].

    Each row is a group of its own, so that nothing here depends on microbatches or devices.

    Attributes:
      balance: E sum_e f_e p_e, f the share of the choices that fall on an expert and p its mean probability: 1 where both are
        even (DeepSeek-AI 2024, section 2.1.2, "sequence-wise"); p alone has a gradient.
      z: mean of (log sum exp of the router's logits)^2.
      entropy: mean entropy of the router's probabilities, in nats.
      largest: the largest f_e.
      dropped: the share of choices that found no place.
    """

    balance: jax.Array
    z: jax.Array
    entropy: jax.Array
    largest: jax.Array
    dropped: jax.Array


class Experts(nn.Module):
    """sum_k gate_k MLP_k(x) over the K experts with the largest router probabilities; kernels [E, D, F] without biases.

    The router computes in float32 or wider (Fedus et al. 2022, section 2.4).

    With a capacity each row of the batch is a group of its own (GShard's are larger): the T tokens of a row compete for its
    places, and for nothing else. So the result depends on neither batch, microbatches nor mesh. Places are given in the order
    of the tokens, so that what a token gets does not depend on those behind it, as in the rest of a causal decoder; padding
    gets none.
    """

    config: StackConfig
    spread: Spread
    precision: Precision

    @nn.compact
    def __call__(self, x: jax.Array, real: jax.Array | None = None, limited: bool = True) -> tuple[jax.Array, Routing]:
        """(y [B, T, D], routing) of x [B, T, D]. real: bool[B, T], the tokens that are not padding, or None.

        limited=False gives every choice a place: a token that is decoded alone would always find one.
        """
        config, precision, spread = self.config.experts, self.precision, self.spread
        exact = Precision(precision.params, str(jnp.promote_types(precision.compute, jnp.float32)))
        route = (("embed", x.shape[-1]),), (("routes", config.count),)
        start, readout = (
            spread.up * self.config.wider**0.5,
            self.config.readout,
        )  # a head: few routes, whatever the width
        router = Linear(*route, start, False, exact, True, spread.law, readout, name="router")
        logits = constrain(router(x), "batch", "length", None)
        probabilities = jax.nn.softmax(logits)
        # A sort stays where the rows are; XLA gathers them all for a `top_k`.
        chosen = jnp.argsort(probabilities, axis=-1, stable=True, descending=True)[..., : config.chosen]
        gates = jnp.take_along_axis(probabilities, chosen, axis=-1)
        if config.normalised:
            gates = gates / gates.sum(-1, keepdims=True)
        real = jnp.ones(x.shape[:2], bool) if real is None else real

        sizes = {"experts": config.count, "embed": x.shape[-1], "mlp": self.config.mlp_size}
        found = {}
        for name, axes in KERNELS.items():
            if name != "gate" or self.config.gated:
                std = spread.down if name == "down" else spread.up
                shape = tuple((axis, sizes[axis]) for axis in axes)
                found[name] = ExpertKernels(shape, std, spread.law, precision, name=name)()
        if config.dispatch == "ragged":
            y, slots = self._sorted(x, gates, chosen, found), jnp.zeros(chosen.shape, jnp.int32)
        else:
            capacity = config.places(x.shape[1]) if limited else x.shape[1]
            y, slots = self._placed(x, gates, chosen, real, found, capacity)
        y = constrain(y.astype(precision.compute), "batch", "length", "act_embed")
        return y, routing_of(logits, chosen, slots, real)

    def _placed(self, x, gates, chosen, real, found, capacity):
        """([B, T, D], slots): the weighted sum of those experts that have a place for the token.

        The constraints say where rows change places: what is split by row comes to be split by expert, and back.
        """
        (rows, length, width), count = x.shape, self.config.experts.count
        slots, sources = dispatch.places(constrain(chosen, "batch", None, None), real, count, capacity)
        placed = dispatch.sent(x, slots, sources).reshape(rows, count, capacity, width)
        placed = constrain(placed, "batch", None, None, "act_embed")
        placed = constrain(placed, "expert_batch", "act_experts", None, "act_embed")
        each = jax.vmap(lambda x, kernel: kernels.matmul(x, kernel, self.precision.compute), (1, 0), 1)

        def product(x, name):
            y = each(x, found[name]).astype(self.precision.compute)
            y = constrain(y, "expert_batch", "act_experts", None, "act_embed" if name == "down" else "act_mlp")
            return checkpoint_name(y, name)  # as Linear does, for a policy of what the backward pass keeps

        y = product(self._hidden(lambda name: product(placed, name)), "down")
        y = constrain(y, "batch", None, None, "act_embed").reshape(rows, count * capacity, width)
        y = dispatch.returned(y, slots, sources).reshape(rows, length, -1, width)
        return (y * gates[..., None]).sum(2), slots

    def _sorted(self, x, gates, chosen, found):
        """[B, T, D], the weighted sum of all experts that a token chose."""
        dtype = self.precision.compute

        def apply(rows, sizes, weights):
            # In 16 bits the result is rounded before its gradient comes back: both operands of that product are then narrow.
            narrow = lambda x, name: jax.lax.ragged_dot(x.astype(dtype), weights[name].astype(dtype), sizes)
            product = lambda x, name: checkpoint_name(narrow(x, name), name)
            return product(self._hidden(lambda name: product(rows, name)), "down")

        named = {name: (kernel, KERNELS[name]) for name, kernel in found.items()}
        return dispatch.ragged(apply, x, gates, chosen, named, self.config.experts.count)

    def _hidden(self, grow: Callable[[str], jax.Array]) -> jax.Array:
        """activation(gate) * up or activation(up), in the dtype of products; made again in the backward pass, as in an MLP."""
        activate = jax.checkpoint(lambda y: ACTIVATIONS[self.config.activation](wide(y)))
        y = activate(grow("gate")) * wide(grow("up")) if self.config.gated else activate(grow("up"))
        return y.astype(self.precision.compute)


class ExpertKernels(nn.Module):
    """A kernel for each of several experts: sizes ((logical name, size), ...), the experts first."""

    sizes: tuple[tuple[str, int], ...]
    std: float
    law: str
    precision: Precision

    @nn.compact
    def __call__(self) -> jax.Array:
        initial = nn.with_logical_partitioning(LAWS[self.law](self.std), tuple(name for name, _ in self.sizes))
        return self.param("kernel", initial, tuple(size for _, size in self.sizes), self.precision.params)


def routing_of(logits: jax.Array, chosen: jax.Array, slots: jax.Array, real: jax.Array) -> Routing:
    """Of logits [B, T, E], chosen int32[B, T, K], slots int32[B, T K] (negative: dropped) and real bool[B, T]."""
    count, choices = logits.shape[-1], chosen.shape[-1]
    counted = real.astype(logits.dtype)
    tokens = jnp.maximum(counted.sum(1), 1)
    mean = lambda each: (
        (each * counted.reshape(*counted.shape, *[1] * (each.ndim - 2))).sum(1)
        / (tokens.reshape(-1, *[1] * (each.ndim - 2)))
    )
    log = jax.nn.logsumexp(logits, -1)
    probabilities = jnp.exp(logits - log[..., None])
    share = mean(jax.nn.one_hot(chosen, count, dtype=logits.dtype).sum(2)) / choices
    dropped = (slots < 0).reshape(chosen.shape).astype(logits.dtype).mean(-1)
    return Routing(
        balance=count * (share * mean(probabilities)).sum(-1),
        z=mean(jnp.square(log)),
        entropy=mean(log - (probabilities * logits).sum(-1)),
        largest=share.max(-1),
        dropped=mean(dropped),
    )
