"""Learned queries that read a sequence: what CoCa and SigLIP make features of."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from pretrainx.models import kernels
from pretrainx.models.layers import Linear, Norm, Precision
from pretrainx.models.stack import MLP, StackConfig
from pretrainx.parallel.rules import constrain


class AttentionPool(nn.Module):
    """x [B, S, I] -> [B, Q, D]: Q learned queries attend to a sequence (Lee et al. 2019; Yu et al. 2022, section 3.2).

    Attributes:
      queries, width: Q and D; heads: of the attention.
      normed: norms of the queries and of the sequence come before it.
      std: of the initial queries and matrices; epsilon: of the norms.
    """

    queries: int
    width: int
    heads: int
    normed: bool
    std: float
    epsilon: float = 1e-5
    precision: Precision = Precision()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        initial = nn.with_logical_partitioning(nn.initializers.normal(self.std), ("place", "embed"))
        query = self.param("query", initial, (self.queries, self.width), self.precision.params)
        query = query.astype(self.precision.compute)[None]
        if self.normed:
            query = Norm("layer", self.epsilon, self.precision, name="query_norm")(query)
            x = Norm("layer", self.epsilon, self.precision, name="memory_norm")(x)
        outputs = (("heads", self.heads), ("head_dim", self.width // self.heads))
        project = lambda name, y: Linear((("embed", y.shape[-1]),), outputs, self.std, True, self.precision, name=name)(
            y
        )
        query, key, value = project("query_kernel", query), project("key", x), project("value", x)
        query = jnp.broadcast_to(query, (x.shape[0], *query.shape[1:]))
        laid = lambda y: constrain(y, "batch", None, "act_heads", None)
        y = kernels.attention(laid(query), laid(key), laid(value), causal=False)
        out = Linear(outputs, (("embed", self.width),), self.std, True, self.precision, name="out")
        return constrain(out(y), "batch", None, "act_embed")


class MapHead(nn.Module):
    """x [B, S, D] -> [B, D]: one query reads the sequence, then y + MLP(norm(y)) (Zhai et al. 2022)."""

    config: StackConfig
    precision: Precision = Precision()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        config, precision = self.config, self.precision
        y = AttentionPool(
            1, config.width, config.heads, False, config.initial_std, config.norm_epsilon, precision, name="pool"
        )(x)
        norm = Norm(config.norm, config.norm_epsilon, precision, name="norm")
        return (y + MLP(config, config.spread(config.depth), precision, name="mlp")(norm(y)))[:, 0]
