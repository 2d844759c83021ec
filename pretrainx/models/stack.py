"""The transformer block that all models are stacks of, and the sizes and habits that they share."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

import jax
from flax import linen as nn
from flax import struct
from jax.ad_checkpoint import checkpoint_name

from pretrainx.core.errors import ConfigError
from pretrainx.models import kernels, splash
from pretrainx.models.attention import Attention, Cache, CrossAttention, Turns, turns
from pretrainx.models.experts import Experts, ExpertsConfig
from pretrainx.models.layers import (
    ACTIVATIONS,
    NORMS,
    Linear,
    Norm,
    Precision,
    Scale,
    Spread,
    drop_path,
    dropout,
    wide,
)
from pretrainx.models.scaled import Scaled
from pretrainx.parallel.rules import constrain

# What the backward pass finds in memory of each block; the rest it computes again. A result of `Linear` has its module's name
# and the dtype that goes on, a block's input is "block"; what lies in the host's memory comes back for the block's turn.
_OF_ATTENTION, _OF_MLP = ("query", "key", "value", "out"), ("gate", "up", "down", "router")
_policies = jax.checkpoint_policies
_to_host = functools.partial(
    _policies.save_and_offload_only_these_names, offload_src="device", offload_dst="pinned_host"
)
REMAT = {
    "none": None,
    "full": _policies.nothing_saveable,
    "dots": _policies.checkpoint_dots,
    "weight_dots": _policies.save_only_these_names(*_OF_ATTENTION, *_OF_MLP),
    "attention": _policies.save_only_these_names(*_OF_ATTENTION),
    "offload": _to_host(names_which_can_be_saved=[], names_which_can_be_offloaded=["block"]),
    "offload_dots": _to_host(
        names_which_can_be_saved=["block"], names_which_can_be_offloaded=[*_OF_ATTENTION, *_OF_MLP]
    ),
}
INITIAL = ("normal", "fan_in")
# The number of the first draw of a stack's dropped branches; dropout's stand before it.
DROP_PATH = 2**16


@dataclass(frozen=True)
class StackConfig(Scaled):
    """What decoders, encoders and encoder-decoders have in common.

    Attributes:
      width, depth, heads: model width D, number of blocks L, attention heads H.
      kv_heads: heads of keys and values, each shared by heads / kv_heads queries; 0 is one each.
      head_dim: width of a head K; 0 is width / heads.
      mlp_width: hidden width of the MLP F; 0 is 4 D.
      max_length: rows of the position table; 0 takes the data's length.
      rotary_base: theta of the rotary angles (10,000; LLaMA 3: 500,000).
      norm, norm_epsilon, activation: "layer" or "rms"; "gelu_tanh" (GPT-2), "gelu" (BERT), "relu" (T5), "silu",
        "quick_gelu" (the first CLIP) or "relu_squared".
      gated: the MLP is down(activation(gate(x)) * up(x)); SwiGLU with "silu" (Shazeer 2020).
      qk_norm: normalise queries and keys per head.
      bias: biases in linear layers of blocks.
      tied: the head is the token table; otherwise a matrix of its own.
      dropout: rate on embeddings and on the residual branches.
      remat: what the backward pass keeps of a block: "none" recomputes nothing, "dots" keeps all matrix products,
        "weight_dots" those with weights, "attention" those of its projections but not the MLP's, "full" only the block's input;
        "offload" and "offload_dots" are "full" and "weight_dots" with what they keep in the host's memory, on a GPU or TPU.
        A CPU saves nothing by it with unroll 0.
      attention: "auto" chooses by platform; "blocks", "xla", "cudnn" (NVIDIA) and "splash" (TPU) name a kernel. A
        ring (config.sharding.context) has its own.
      unroll: blocks per iteration of the scan over layers; 0 unrolls all (fast on CPU at small depth).
      vocab_multiple: vocabulary tables are stored padded to a multiple of this.
      initial_std: of all matrices and tables.
      base_width: the width at which rates were tuned; 0 is the standard parametrisation. From it on the model is scaled by muP
        (Yang et al. 2022): with m = width / base_width hidden matrices start with variance / m, logits are divided by m, and
        the optimizer does its part (optim/mup.py). At m = 1 nothing changes.
      base_head_dim: the width of a head there, where heads grow with the model: scores are then divided by K, not by sqrt(K).
        0: heads keep their width, and their number grows.
      base_depth: blocks of the stack that was tuned; what a block adds is multiplied by base_depth / depth (CompleteP: Dey et
        al. 2025, alpha 1). 0: depth is not compensated.
      zero_init: queries and an untied head start at zero, which leaves less to transfer (Yang et al. 2022, appendix D.2).
    """

    width: int = field(default=256, metadata={"min": 1})
    depth: int = field(default=4, metadata={"min": 1})
    heads: int = field(default=4, metadata={"min": 1})
    kv_heads: int = field(default=0, metadata={"min": 0})
    head_dim: int = field(default=0, metadata={"min": 0})
    mlp_width: int = field(default=0, metadata={"min": 0})
    max_length: int = field(default=0, metadata={"min": 0})
    rotary_base: float = field(default=10_000.0, metadata={"above": 0})
    norm: str = field(default="layer", metadata={"choices": NORMS})
    norm_epsilon: float = field(default=1e-5, metadata={"above": 0})
    activation: str = field(default="gelu_tanh", metadata={"choices": tuple(ACTIVATIONS)})
    gated: bool = False
    qk_norm: bool = False
    bias: bool = True
    tied: bool = True
    dropout: float = field(default=0.0, metadata={"min": 0.0, "max": 0.99})
    remat: str = field(default="none", metadata={"choices": tuple(REMAT)})
    attention: str = field(default="auto", metadata={"choices": kernels.ATTENTION})
    unroll: int = field(default=1, metadata={"min": 0})
    vocab_multiple: int = field(default=64, metadata={"min": 1})
    initial_std: float = field(default=0.02, metadata={"above": 0})
    base_width: int = field(default=0, metadata={"min": 0})
    base_head_dim: int = field(default=0, metadata={"min": 0})
    base_depth: int = field(default=0, metadata={"min": 0})
    zero_init: bool = False

    # Habits that only some of the models choose: a field of theirs where they do.
    positions = "learned"
    norm_first = True
    scaled_attention = True
    scaled_residual = False
    initial = "normal"
    window = 0
    key_bias = True
    layer_scale = 0.0
    drop_path = 0.0
    inner_mlp = False
    memory_norm = False
    experts = ExpertsConfig()

    def __post_init__(self):
        for name, whole, parts in (
            ("heads", "width", 0 if self.head_dim else self.width % self.heads),
            ("kv_heads", "heads", self.heads % self.shared_heads),
        ):
            if parts:
                raise ConfigError(
                    f"the {name} do not divide the {whole}",
                    where=f"config.model.{name}",
                    why=f"{whole} {getattr(self, whole)}, {name} {getattr(self, name)}",
                    do=f"choose a {whole} that is a multiple of the {name}",
                )
        if self.positions == "rotary" and self.head_size % 2:
            raise ConfigError(
                "rotary positions turn pairs",
                where="config.model.head_dim",
                why=f"a head has {self.head_size} dimensions",
                do="choose an even width of heads",
            )

    @property
    def shared_heads(self) -> int:
        return self.kv_heads or self.heads

    @property
    def head_size(self) -> int:
        return self.head_dim or self.width // self.heads

    @property
    def mlp_size(self) -> int:
        return self.mlp_width or 4 * self.width

    def spread(self, depth: int, layer: jax.Array | int = 0) -> Spread:
        """Standard deviations of the matrices of block number `layer` (from 0; may be traced) in a stack of `depth` blocks."""
        if self.initial == "fan_in":  # T5's rule: without 1 / sqrt(K) in the scores, queries start that much smaller
            to_heads, of_heads = self.width**-0.5, (self.heads * self.head_size) ** -0.5
            query = to_heads if self.scaled_attention else to_heads * (self.base_head_dim or self.head_size) ** -0.5
            return Spread(self.query_std(query), to_heads, of_heads, to_heads, self.mlp_size**-0.5)
        # The sum of 2 L branches keeps the scale of one; where they are multiplied by base_depth / depth, L is the base's.
        std = self.hidden_std
        out = std / ((2 * depth / self.deeper) ** 0.5 if self.scaled_residual else 1.0)
        return Spread(self.query_std(std), std, out, std, out)

    @property
    def table_std(self) -> float:
        return 1.0 if self.initial == "fan_in" else self.initial_std

    @property
    def head_std(self) -> float:
        """Of a head that is a matrix of its own."""
        if self.zero_init:
            return 0.0
        return self.tuned_width**-0.5 if self.initial == "fan_in" else self.initial_std

    def check(self, length: int, precision: Precision) -> None:
        """ConfigError where rows of `length` tokens outgrow the position table, or the kernel does not fit."""
        if self.max_length and self.max_length < length:
            raise ConfigError(
                "the rows are longer than the position table",
                where="config.model.max_length",
                why=f"config.data.length needs {length}, config.model.max_length is {self.max_length}",
                do=f"--config.model.max_length={length}, or 0 to follow the data",
            )
        if self.attention == "cudnn" and not kernels.fits_cudnn(precision.compute, self.head_size):
            raise ConfigError(
                "cuDNN's attention does not take these heads",
                where="config.model.attention",
                why=f"heads of {self.head_size} in {precision.compute}; it takes multiples of 8 up to 128, in bfloat16",
                do="--config.model.attention=auto, or other heads and --config.precision.compute=bfloat16",
            )
        if self.attention == "splash" and not splash.fits(precision.compute, self.head_size, length):
            raise splash.refusal(f"heads of {self.head_size} in {precision.compute}, rows of {length} tokens")

    def turns(self, positions: jax.Array, dtype) -> Turns | None:
        """The rotary angles of positions, where the model turns."""
        return turns(positions, self.head_size, self.rotary_base, dtype) if self.positions == "rotary" else None


@struct.dataclass
class Around:
    """What every block of a stack sees beside the stream.

    Attributes:
      keys: key[B] for dropout, or None.
      turns: rotary angles of the positions.
      segments, seen, bias, key_segments: what tokens see of each other, as `kernels.attention` takes them.
      memory: [B, S, D], what a cross-attention reads; source_segments: int32[B, S], where it is real.
      real: bool[B, T], the tokens that are not padding, for a mixture of experts; None: all are.
    """

    keys: jax.Array | None = None
    turns: Turns | None = None
    segments: jax.Array | None = None
    seen: jax.Array | None = None
    bias: jax.Array | None = None
    memory: jax.Array | None = None
    source_segments: jax.Array | None = None
    key_segments: jax.Array | None = None
    real: jax.Array | None = None


class Block(nn.Module):
    """One layer: x + branch(norm(x)) for attention, cross-attention where there is one, and MLP; norm_first=False is
    norm(x + branch(x)). Scanned over `layer` and the layers of the caches.

    Attributes:
      depth: blocks of the stack; causal: queries see what stands before them; cross: there is a memory to read.
      first_site: number of the stack's first dropout.
    """

    config: StackConfig
    precision: Precision
    depth: int
    causal: bool = True
    cross: bool = False
    first_site: int = 0

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        layer: jax.Array,
        cache: Cache | None,
        memory: tuple[jax.Array, jax.Array] | None,
        around: Around,
    ):
        """x [B, T, D]; layer int32[] is the block's number; `memory`: the cross-attention's keys and values, made before.

        Returns (x, None), of a mixture of experts (x, Routing), or with a cache (x, (cache, memory)).
        """
        config, precision = self.config, self.precision
        x = checkpoint_name(x, "block")
        spread, decoding, routing = config.spread(self.depth, layer), cache is not None, None

        def attend(y):
            nonlocal cache
            attention = Attention(config, spread, self.causal, precision, name="attention")
            seen = around.seen, around.bias, around.key_segments
            y, cache = attention(y, around.turns, around.segments, cache, *seen)
            return y

        def read(y):
            nonlocal memory
            cross = CrossAttention(config, spread, precision, name="cross")
            if memory is None:
                read = around.memory
                if config.memory_norm:
                    read = Norm(config.norm, config.norm_epsilon, precision, name="memory_norm")(read)
                memory = cross.read(read)
            return cross(y, memory, around.source_segments)

        def route(y):
            nonlocal routing
            experts = Experts(config, spread, precision, name="mlp")
            y, routing = experts(y, around.real, limited=not decoding)
            return y

        mlp = route if config.experts.count else MLP(config, spread, precision, name="mlp")
        branches = {"attention": attend, "mlp": mlp}
        if self.cross:
            inner = {"inner_mlp": MLP(config, spread, precision, name="inner_mlp")} if config.inner_mlp else {}
            branches = {"attention": attend, **inner, "cross": read, "mlp": branches["mlp"]}
        for index, (name, branch) in enumerate(branches.items()):
            norm = Norm(config.norm, config.norm_epsilon, precision, name=f"{name}_norm")
            y = branch(norm(x) if config.norm_first else x)
            if config.layer_scale:
                y = Scale(config.layer_scale, precision, name=f"{name}_scale")(y)
            if config.drop_path:
                rate = config.drop_path * layer / max(self.depth - 1, 1)
                y = drop_path(y, rate, around.keys, DROP_PATH + len(branches) * layer + index)
            if config.deeper != 1:
                y = y / config.deeper
            x = x + dropout(y, config.dropout, around.keys, self.first_site + len(branches) * layer + index)
            x = constrain(x if config.norm_first else norm(x), "batch", "length", "act_embed")
        return x, (cache, memory) if decoding else routing


class MLP(nn.Module):
    """down(activation(up(x))), or down(activation(gate(x)) * up(x))."""

    config: StackConfig
    spread: Spread
    precision: Precision

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        config, precision, spread = self.config, self.precision, self.spread
        width, hidden = (("embed", x.shape[-1]),), (("mlp", config.mlp_size),)
        grow = lambda name: constrain(
            Linear(width, hidden, spread.up, config.bias, precision, law=spread.law, name=name)(x),
            *("batch", "length", "act_mlp"),
        )
        # In float32 whatever is stored: bfloat16 elementwise work is three times slower on CPU, and no more exact.
        # Its own intermediates are made again from its input: kept, they would be most of what a block keeps.
        activate = jax.checkpoint(lambda y: ACTIVATIONS[config.activation](wide(y)))
        y = activate(grow("gate")) * wide(grow("up")) if config.gated else activate(grow("up"))
        y = y.astype(precision.compute)
        return Linear(hidden, width, spread.down, config.bias, precision, law=spread.law, name="down")(y)
