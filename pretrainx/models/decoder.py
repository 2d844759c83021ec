"""A decoder-only transformer: embed, blocks, head. GPT-2 (Radford et al. 2019) by default, LLaMA (Touvron et al. 2023) by
configuration."""

from __future__ import annotations

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from flax import linen as nn

from pretrainx.core.errors import ConfigError
from pretrainx.models import kernels
from pretrainx.models.attention import Attention, Cache, Turns, turns
from pretrainx.models.layers import ACTIVATIONS, NORMS, Embedding, Linear, Norm, Precision, dropout, padded, wide
from pretrainx.parallel.rules import constrain

# What the backward pass finds in memory of each block; the rest it computes again.
REMAT = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.checkpoint_dots,
    "weight_dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


@dataclass(frozen=True)
class DecoderConfig:
    """Sizes and habits of the decoder.

    LLaMA is positions "rotary", norm "rms", activation "silu", gated, no bias, and an untied head.

    Attributes:
      width, depth, heads: model width D, number of blocks L, attention heads H.
      kv_heads: heads of keys and values, each shared by heads / kv_heads queries; 0 is one each.
      head_dim: width of a head K; 0 is width / heads.
      mlp_width: hidden width of the MLP F; 0 is 4 D.
      max_length: rows of the position table; 0 takes the data's length.
      positions: "learned" table, or "rotary" turns of queries and keys.
      rotary_base: theta of the rotary angles (10,000; LLaMA 3: 500,000).
      norm, norm_epsilon, activation: "layer" or "rms"; "gelu_tanh" (GPT-2), "gelu", "silu" or "relu_squared".
      gated: the MLP is down(activation(gate(x)) * up(x)); SwiGLU with "silu" (Shazeer 2020).
      qk_norm: normalise queries and keys per head.
      bias: biases in linear layers of blocks.
      tied: the head is the token table; otherwise a matrix of its own.
      logit_cap: logits are cap tanh(logits / cap) (Gemma 2); 0 is off.
      window: a token sees itself and the window - 1 tokens before it; 0 sees all.
      dropout: rate on embeddings and both residual branches.
      remat: what the backward pass keeps of a block: "none" recomputes nothing, "dots" keeps all matrix products,
        "weight_dots" those with weights, "full" only the block's input. A CPU saves nothing by it with unroll 0.
      attention: "auto" chooses by platform; "blocks", "xla" and "cudnn" name a kernel.
      unroll: blocks per iteration of the scan over layers; 0 unrolls all (fast on CPU at small depth).
      vocab_multiple: vocabulary tables are stored padded to a multiple of this.
      initial_std: of all matrices and tables.
      scaled_residual: the two matrices that write into the residual stream start smaller, by 1 / sqrt(2 L) (GPT-2).
    """

    width: int = field(default=256, metadata={"min": 1})
    depth: int = field(default=4, metadata={"min": 1})
    heads: int = field(default=4, metadata={"min": 1})
    kv_heads: int = field(default=0, metadata={"min": 0})
    head_dim: int = field(default=0, metadata={"min": 0})
    mlp_width: int = field(default=0, metadata={"min": 0})
    max_length: int = field(default=0, metadata={"min": 0})
    positions: str = field(default="learned", metadata={"choices": ("learned", "rotary")})
    rotary_base: float = field(default=10_000.0, metadata={"above": 0})
    norm: str = field(default="layer", metadata={"choices": NORMS})
    norm_epsilon: float = field(default=1e-5, metadata={"above": 0})
    activation: str = field(default="gelu_tanh", metadata={"choices": tuple(ACTIVATIONS)})
    gated: bool = False
    qk_norm: bool = False
    bias: bool = True
    tied: bool = True
    logit_cap: float = field(default=0.0, metadata={"min": 0})
    window: int = field(default=0, metadata={"min": 0})
    dropout: float = field(default=0.0, metadata={"min": 0.0, "max": 0.99})
    remat: str = field(default="none", metadata={"choices": tuple(REMAT)})
    attention: str = field(default="auto", metadata={"choices": kernels.ATTENTION})
    unroll: int = field(default=1, metadata={"min": 0})
    vocab_multiple: int = field(default=64, metadata={"min": 1})
    initial_std: float = field(default=0.02, metadata={"above": 0})
    scaled_residual: bool = True

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

    def build(self, vocab_size: int, length: int, precision: Precision, predicted: int = 0) -> Decoder:
        """The decoder of these sizes for rows of `length` tokens; `predicted` as Decoder has it."""
        if self.max_length and self.max_length < length:
            raise ConfigError(
                "the rows are longer than the position table",
                where="config.model.max_length",
                why=f"config.data.length {length}, config.model.max_length {self.max_length}",
                do=f"--config.model.max_length={length}, or 0 to follow the data",
            )
        if self.attention == "cudnn" and not kernels.fits_cudnn(precision.compute, self.head_size):
            raise ConfigError(
                "cuDNN's attention does not take these heads",
                where="config.model.attention",
                why=f"heads of {self.head_size} in {precision.compute}; it takes multiples of 8 up to 128, in bfloat16",
                do="--config.model.attention=auto, or other heads and --config.precision.compute=bfloat16",
            )
        return Decoder(self, vocab_size, self.max_length or length, precision, predicted)


class Block(nn.Module):
    """One pre-norm layer: x + attention(norm(x)), then x + mlp(norm(x)). Scanned over `layer` and the layers of `cache`."""

    config: DecoderConfig
    precision: Precision

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        layer: jax.Array,
        cache: Cache | None,
        keys: jax.Array | None,
        turns: Turns | None,
        segments: jax.Array | None,
    ):
        """x [B, T, D]; layer int32[] is the block's number; keys key[B] or None. Returns (x, cache), as scan wants."""
        config, precision = self.config, self.precision
        # The sum of 2 L branches keeps the scale of one.
        output_std = config.initial_std / ((2 * config.depth) ** 0.5 if config.scaled_residual else 1.0)
        y = Norm(config.norm, config.norm_epsilon, precision, name="attention_norm")(x)
        y, cache = Attention(
            config.heads,
            config.shared_heads,
            config.head_size,
            config.initial_std,
            output_std,
            window=config.window,
            qk_norm=config.qk_norm,
            bias=config.bias,
            output_bias=config.bias,
            kernel=config.attention,
            precision=precision,
            name="attention",
        )(y, turns, segments, cache)
        x = constrain(x + dropout(y, config.dropout, keys, 2 * layer), "batch", "length", "act_embed")
        y = Norm(config.norm, config.norm_epsilon, precision, name="mlp_norm")(x)
        y = MLP(config, output_std, precision, name="mlp")(y)
        x = constrain(x + dropout(y, config.dropout, keys, 2 * layer + 1), "batch", "length", "act_embed")
        return x, cache


class MLP(nn.Module):
    """down(activation(up(x))), or down(activation(gate(x)) * up(x))."""

    config: DecoderConfig
    output_std: float
    precision: Precision

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        config, precision = self.config, self.precision
        width, hidden = (("embed", x.shape[-1]),), (("mlp", config.mlp_size),)
        grow = lambda name: constrain(
            Linear(width, hidden, config.initial_std, config.bias, precision, name=name)(x),
            "batch",
            "length",
            "act_mlp",
        )
        # In float32 whatever is stored: bfloat16 elementwise work is three times slower on CPU, and no more exact.
        # Its own intermediates are made again from its input: kept, they would be most of what a block keeps.
        activate = jax.checkpoint(lambda y: ACTIVATIONS[config.activation](wide(y)))
        y = activate(grow("gate")) * wide(grow("up")) if config.gated else activate(grow("up"))
        y = y.astype(precision.compute)
        return Linear(hidden, width, self.output_std, config.bias, precision, name="down")(y)


class Decoder(nn.Module):
    """tokens int32[B, T] -> logits float32[B, T, V'], V' = vocabulary padded; padded columns are masked.

    `head(blocks(embed(tokens)))` is the call; the three are separate because prompts, pipelines and decoding enter there.
    `keys: key[B]` switches dropout on. `positions` int32[B, T] (default 0, 1, ...) and `segments` int32[B, T] (tokens see only
    their own) are for rows that hold several documents. `predicted`: only the first so many ids are; 0 is all.
    """

    config: DecoderConfig
    vocab_size: int
    max_length: int
    precision: Precision = Precision()
    predicted: int = 0

    def setup(self):
        config, precision = self.config, self.precision
        std = config.initial_std
        rows = padded(self.vocab_size, config.vocab_multiple)
        self.token = Embedding(rows, config.width, "vocab", std, precision)
        if config.positions == "learned":
            self.position = Embedding(self.max_length, config.width, "position", std, precision)
        # scan and remat make a new class at each call: here, never as a field, or equal models would differ.
        policy = REMAT[config.remat]
        block = Block if policy is None else nn.remat(Block, prevent_cse=config.unroll == 0, policy=policy)
        self.layers = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(0, 0, nn.broadcast, nn.broadcast, nn.broadcast),
            length=config.depth,
            unroll=config.unroll or config.depth,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )(config, precision)
        self.final_norm = Norm(config.norm, config.norm_epsilon, precision)
        if not config.tied:
            self.unembed = Linear((("embed", config.width),), (("vocab", rows),), std, False, precision, wide=True)

    def embed(self, tokens: jax.Array, keys: jax.Array | None = None, positions: jax.Array | None = None) -> jax.Array:
        """[B, T, D]"""
        x = self.token(tokens)
        if self.config.positions == "learned":
            if tokens.shape[1] > self.max_length:
                raise ValueError(f"{tokens.shape[1]} tokens, but the position table has {self.max_length} rows")
            x = x + self.position(jnp.arange(tokens.shape[1]) if positions is None else positions)
        x = dropout(x.astype(self.precision.compute), self.config.dropout, keys, 2 * self.config.depth)
        return constrain(x, "batch", "length", "act_embed")

    def blocks(
        self,
        x: jax.Array,
        keys: jax.Array | None = None,
        positions: jax.Array | None = None,
        segments: jax.Array | None = None,
    ) -> jax.Array:
        """[B, T, D], not yet normalised"""
        positions = jnp.arange(x.shape[1])[None] if positions is None else positions
        return self.layers(x, jnp.arange(self.config.depth), None, keys, self.turns(positions, x.dtype), segments)[0]

    def turns(self, positions: jax.Array, dtype) -> Turns | None:
        config = self.config
        rotary = config.positions == "rotary"
        return turns(positions, config.head_size, config.rotary_base, dtype) if rotary else None

    def hidden(self, x: jax.Array) -> jax.Array:
        """The normalised output of the blocks, what the head reads and features are made of: [B, T, D]."""
        return self.final_norm(x)

    def logits(self, hidden: jax.Array) -> jax.Array:
        """float32[B, T, V'] of what `hidden` returns."""
        config = self.config
        logits = self.token.attend(hidden) if config.tied else self.unembed(hidden)
        logits = constrain(logits, "batch", "length", "act_vocab")
        if config.logit_cap:
            logits = config.logit_cap * jnp.tanh(logits / config.logit_cap)
        real = jnp.arange(logits.shape[-1]) < (self.predicted or self.vocab_size)
        return jnp.where(real, logits, jnp.finfo(logits.dtype).min / 2)

    def head(self, x: jax.Array) -> jax.Array:
        """float32[B, T, V']"""
        return self.logits(self.hidden(x))

    def __call__(self, tokens: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        return self.head(self.blocks(self.embed(tokens, keys), keys))

    def decode(self, tokens: jax.Array, cache: Cache) -> tuple[jax.Array, Cache]:
        """(logits float32[B, T, V'], cache) of tokens int32[B, T] that follow those in the cache."""
        positions = cache.filled + jnp.arange(tokens.shape[1])[None]
        x = self.embed(tokens, None, positions)
        each = cache.replace(filled=jnp.broadcast_to(cache.filled, self.config.depth))
        turns = self.turns(positions, x.dtype)
        x, each = self.layers(x, jnp.arange(self.config.depth), each, None, turns, None)
        return self.head(x), each.replace(filled=each.filled[0])

    def cache(self, rows: int, length: int) -> Cache:
        """An empty cache for `length` tokens of `rows` rows."""
        config = self.config
        shape = (config.depth, rows, length, config.shared_heads, config.head_size)
        zeros = constrain(jnp.zeros(shape, self.precision.compute), None, "batch", "length", "act_heads", None)
        return Cache(zeros, zeros, jnp.zeros((), jnp.int32))
