"""A decoder-only transformer: embed, blocks, head. Its defaults are GPT-2's architecture (Radford et al. 2019)."""

from __future__ import annotations

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from flax import linen as nn

from pretrainx.core.errors import ConfigError
from pretrainx.models.attention import Attention
from pretrainx.models.layers import ACTIVATIONS, NORMS, Embedding, Linear, Norm, Precision, dropout, padded, wide
from pretrainx.parallel.rules import constrain


@dataclass(frozen=True)
class DecoderConfig:
    """Sizes and habits of the decoder.

    Attributes:
      width, depth, heads: model width D, number of blocks L, attention heads H.
      mlp_ratio: hidden width of the MLP over D.
      max_length: rows of the position table; 0 takes the data's length.
      positions: "learned" table, or "rotary" turns of queries and keys.
      norm, activation: "layer" or "rms"; "gelu_tanh" or "relu_squared".
      qk_norm: normalise queries and keys per head.
      bias: biases in linear layers.
      dropout: rate on embeddings and both residual branches.
      remat: "none" keeps every activation, "full" recomputes each block in the backward pass.
      unroll: blocks per iteration of the scan over layers; 0 unrolls all (fast on CPU at small depth).
      vocab_multiple: the vocabulary table is stored padded to a multiple of this.
    """

    width: int = field(default=256, metadata={"min": 1})
    depth: int = field(default=4, metadata={"min": 1})
    heads: int = field(default=4, metadata={"min": 1})
    mlp_ratio: float = field(default=4.0, metadata={"above": 0})
    max_length: int = field(default=0, metadata={"min": 0})
    positions: str = field(default="learned", metadata={"choices": ("learned", "rotary")})
    norm: str = field(default="layer", metadata={"choices": NORMS})
    activation: str = field(default="gelu_tanh", metadata={"choices": tuple(ACTIVATIONS)})
    qk_norm: bool = False
    bias: bool = True
    dropout: float = field(default=0.0, metadata={"min": 0.0, "max": 0.99})
    remat: str = field(default="none", metadata={"choices": ("none", "full")})
    unroll: int = field(default=1, metadata={"min": 0})
    vocab_multiple: int = field(default=64, metadata={"min": 1})
    initial_std: float = field(default=0.02, metadata={"above": 0})

    def __post_init__(self):
        if self.width % self.heads:
            raise ConfigError(
                "the heads do not divide the width",
                where="config.model.heads",
                why=f"width {self.width}, heads {self.heads}",
                do="choose a width that is a multiple of the heads",
            )

    @property
    def mlp_width(self) -> int:
        return int(self.width * self.mlp_ratio)

    def build(self, vocab_size: int, length: int, precision: Precision) -> Decoder:
        """The decoder of these sizes for rows of `length` tokens."""
        if self.max_length and self.max_length < length:
            raise ConfigError(
                "the rows are longer than the position table",
                where="config.model.max_length",
                why=f"config.data.length {length}, config.model.max_length {self.max_length}",
                do=f"--config.model.max_length={length}, or 0 to follow the data",
            )
        return Decoder(self, vocab_size, self.max_length or length, precision)


class Block(nn.Module):
    """One pre-norm layer: x + attention(norm(x)), then x + mlp(norm(x)). Scanned over `layer`."""

    config: DecoderConfig
    precision: Precision

    @nn.compact
    def __call__(self, x: jax.Array, layer: jax.Array, keys: jax.Array | None):
        """x [B, T, D]; layer int32[] is the block's number; keys key[B] or None. Returns (x, None), as scan wants."""
        config, precision = self.config, self.precision
        # The two matrices that write into the residual stream start smaller: the sum of 2 L branches keeps its scale.
        output_std = config.initial_std / (2 * config.depth) ** 0.5
        y = Norm(config.norm, precision=precision, name="attention_norm")(x)
        y = Attention(
            config.heads,
            config.initial_std,
            output_std,
            rotary=config.positions == "rotary",
            qk_norm=config.qk_norm,
            bias=config.bias,
            precision=precision,
            name="attention",
        )(y)
        x = constrain(x + dropout(y, config.dropout, keys, 2 * layer), "batch", "length", "act_embed")
        y = Norm(config.norm, precision=precision, name="mlp_norm")(x)
        y = MLP(config, output_std, precision, name="mlp")(y)
        x = constrain(x + dropout(y, config.dropout, keys, 2 * layer + 1), "batch", "length", "act_embed")
        return x, None


class MLP(nn.Module):
    """down(activation(up(x)))."""

    config: DecoderConfig
    output_std: float
    precision: Precision

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        config, precision = self.config, self.precision
        width, hidden = (("embed", x.shape[-1]),), (("mlp", config.mlp_width),)
        y = Linear(width, hidden, config.initial_std, config.bias, precision, name="up")(x)
        y = constrain(y, "batch", "length", "act_mlp")
        # In float32 whatever is stored: bfloat16 elementwise work is three times slower on CPU, and no more exact.
        y = ACTIVATIONS[config.activation](wide(y)).astype(y.dtype)
        return Linear(hidden, width, self.output_std, config.bias, precision, name="down")(y)


class Decoder(nn.Module):
    """tokens int32[B, T] -> logits float32[B, T, V'], V' = vocabulary padded; padded columns are masked.

    `head(blocks(embed(tokens)))` is the call; the three are separate because prompts, pipelines and decoding enter there.
    `keys: key[B]` switches dropout on.
    """

    config: DecoderConfig
    vocab_size: int
    max_length: int
    precision: Precision = Precision()

    def setup(self):
        config, precision = self.config, self.precision
        std = config.initial_std
        rows = padded(self.vocab_size, config.vocab_multiple)
        self.token = Embedding(rows, config.width, "vocab", std, precision)
        if config.positions == "learned":
            self.position = Embedding(self.max_length, config.width, "position", std, precision)
        # scan and remat make a new class at each call: here, never as a field, or equal models would differ.
        block = nn.remat(Block, prevent_cse=False) if config.remat == "full" else Block
        self.layers = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(0, nn.broadcast),
            length=config.depth,
            unroll=config.unroll or config.depth,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )(config, precision)
        self.final_norm = Norm(config.norm, precision=precision)

    def embed(self, tokens: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        """[B, T, D]"""
        x = self.token(tokens)
        if self.config.positions == "learned":
            if tokens.shape[1] > self.max_length:
                raise ValueError(f"{tokens.shape[1]} tokens, but the position table has {self.max_length} rows")
            x = x + self.position(jnp.arange(tokens.shape[1]))
        return constrain(dropout(x, self.config.dropout, keys, 2 * self.config.depth), "batch", "length", "act_embed")

    def blocks(self, x: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        """[B, T, D], not yet normalised"""
        return self.layers(x, jnp.arange(self.config.depth), keys)[0]

    def hidden(self, x: jax.Array) -> jax.Array:
        """The normalised output of the blocks, what the head reads and features are made of: [B, T, D]."""
        return self.final_norm(x)

    def head(self, x: jax.Array) -> jax.Array:
        """float32[B, T, V']"""
        logits = constrain(self.token.attend(self.hidden(x)), "batch", "length", "act_vocab")
        real = jnp.arange(logits.shape[-1]) < self.vocab_size
        return jnp.where(real, logits, jnp.finfo(logits.dtype).min / 2)

    def __call__(self, tokens: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        return self.head(self.blocks(self.embed(tokens, keys), keys))
