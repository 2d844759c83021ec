"""An encoder: every token sees every other. BERT (Devlin et al. 2019) by default; RoBERTa and modern forms by configuration."""

from __future__ import annotations

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from flax import linen as nn

from pretrainx.core.errors import ConfigError
from pretrainx.models.layers import (
    ACTIVATIONS,
    Embedding,
    Linear,
    Norm,
    Precision,
    Sinusoids,
    dropout,
    padded,
    unpadded,
    wide,
)
from pretrainx.models.stack import Around, StackConfig
from pretrainx.models.stacked import Stack
from pretrainx.parallel.rules import constrain

HEADS = ("transform", "linear", "none")


@dataclass(frozen=True)
class EncoderConfig(StackConfig):
    """Sizes and habits of the encoder, beside those of StackConfig.

    RoBERTa is position_offset 2, types 1 and norm_epsilon 1e-5; a modern encoder norm_first, positions "rotary", norm "rms",
    gated, no types, no embedding_norm, head "linear".

    Attributes:
      positions: "learned" table, "rotary" turns of queries and keys, or "sinusoidal" constants times one learned factor.
      position_offset: the first position's row of the table; RoBERTa keeps the rows before it for padding.
      norm_first: norms at the input of each branch and once at the end (pre-LN); otherwise after each sum (post-LN).
      types: rows of the table of segment types; 0 is no such table.
      embedding_norm: normalise the sum of embeddings.
      head: what comes before the product with the token table: "transform" (dense, activation, norm), or "linear" (nothing);
        both add a bias per id. "none": the model predicts no tokens, it only has features.
      pooler: tanh(W h + b) of the first token, and, where there is a head, two classes of it for next-sentence prediction.
    """

    norm_epsilon: float = field(default=1e-12, metadata={"above": 0})
    activation: str = field(default="gelu", metadata={"choices": tuple(ACTIVATIONS)})
    positions: str = field(default="learned", metadata={"choices": ("learned", "rotary", "sinusoidal")})
    position_offset: int = field(default=0, metadata={"min": 0})
    norm_first: bool = False
    types: int = field(default=0, metadata={"min": 0})
    embedding_norm: bool = True
    head: str = field(default="transform", metadata={"choices": HEADS})
    pooler: bool = False

    def __post_init__(self):
        super().__post_init__()
        if self.positions == "sinusoidal" and self.width % 2:
            raise ConfigError(
                "sinusoidal positions are pairs of a sine and a cosine",
                where="config.model.width",
                why=f"got {self.width}",
                do="choose an even width",
            )

    def build(self, vocab_size: int, length: int, precision: Precision, predicted: int = 0) -> Encoder:
        """The encoder of these sizes for rows of `length` tokens; `predicted` as Encoder has it."""
        self.check(length, precision)
        return Encoder(self, vocab_size, self.max_length or length, precision, predicted)


class Encoder(nn.Module):
    """tokens int32[B, T] -> logits float32[B, T, V'], V' = vocabulary padded; padded columns are masked.

    `head(blocks(embed(tokens)))` is the call. `keys: key[B]` switches dropout on. `positions` int32[B, T] (default 0, 1, ...),
    `types` int32[B, T] (default 0). `segments` int32[B, T]: tokens see those of their own number only; padding is 0, the
    rest of a row 1, or 1, 2, ... where it holds several documents. `predicted`: only the first so many ids are; 0 is all.
    """

    config: EncoderConfig
    vocab_size: int
    max_length: int
    precision: Precision = Precision()
    predicted: int = 0

    def setup(self):
        config, precision, width = self.config, self.precision, self.config.width
        rows = padded(self.vocab_size, config.vocab_multiple)
        table = lambda rows, axis: Embedding(rows, width, axis, config.table_std, precision)
        norm = lambda: Norm(config.norm, config.norm_epsilon, precision)
        square = lambda: Linear((("embed", width),), (("mlp", width),), config.hidden_std, True, precision)
        self.token = table(rows, "vocab")
        if config.positions == "learned":
            self.position = table(self.max_length + config.position_offset, "position")
        if config.positions == "sinusoidal":
            self.position = Sinusoids(width, config.tuned_width**-0.5, precision)
        if config.types:
            self.type = table(config.types, "type")
        if config.embedding_norm:
            self.embedding_norm = norm()
        self.layers = Stack(config, precision, config.depth, causal=False)
        if config.norm_first:
            self.final_norm = norm()
        if config.head == "transform":
            self.transform, self.transform_norm = square(), norm()
        if config.head != "none":
            initial = nn.with_logical_partitioning(nn.initializers.zeros, ("vocab",))
            self.logit_bias = self.param("logit_bias", initial, (rows,), precision.params)
            if not config.tied:
                inputs, outputs = (("embed", width),), (("vocab", rows),)
                self.unembed = Linear(inputs, outputs, config.head_std, False, precision, True, scale=config.readout)
        if config.pooler:
            self.pooler = square()
        if config.pooler and config.head != "none":
            inputs, outputs = (("mlp", width),), (("classes", 2),)
            whole = (config.initial_std, True, precision, True)
            self.relation_ = Linear(inputs, outputs, *whole, scale=config.readout, name="relation")

    def embed(
        self,
        tokens: jax.Array,
        keys: jax.Array | None = None,
        positions: jax.Array | None = None,
        types: jax.Array | None = None,
    ) -> jax.Array:
        """[B, T, D]"""
        config, length = self.config, tokens.shape[1]
        x = self.token(tokens)
        positions = jnp.arange(length)[None] if positions is None else positions
        if config.positions == "learned" and length > self.max_length:
            raise ValueError(f"{length} tokens, but the position table has {self.max_length} rows")
        if config.positions != "rotary":
            x = x + self.position(positions + config.position_offset)
        if config.types:
            # One lookup where all are of type 0: the gradient of one at each token would meet at a single row.
            x = x + self.type(jnp.zeros((1, 1), jnp.int32) if types is None else types)
        if config.embedding_norm:
            x = self.embedding_norm(x)
        x = dropout(x.astype(self.precision.compute), config.dropout, keys, 2 * config.depth)
        return constrain(x, "batch", "length", "act_embed")

    def blocks(
        self,
        x: jax.Array,
        keys: jax.Array | None = None,
        positions: jax.Array | None = None,
        segments: jax.Array | None = None,
    ) -> jax.Array:
        """[B, T, D], before the last norm where norms come first"""
        positions = jnp.arange(x.shape[1])[None] if positions is None else positions
        around = Around(keys, self.config.turns(positions, x.dtype), segments)
        return self.layers(x, jnp.arange(self.config.depth), None, None, around)[0]

    def hidden(self, x: jax.Array) -> jax.Array:
        """What the head reads and features are made of: [B, T, D]."""
        return self.final_norm(x) if self.config.norm_first else x

    def logits(self, hidden: jax.Array) -> jax.Array:
        """float32[B, T, V'] of what `hidden` returns. ConfigError for a model without a head."""
        config = self.config
        if config.head == "none":
            raise ConfigError(
                "the model has no head that predicts tokens",
                where="config.model.head",
                why='it is "none", as in an imported encoder that was trained for features',
                do="--config.model.head=transform, with config.init_from naming the run: the head starts anew",
            )
        if config.head == "transform":
            # Whole on each device before the norm: left to itself the compiler spreads it, and its gradient came out wrong.
            hidden = constrain(self.transform(hidden), "batch", "length", "act_embed")
            hidden = ACTIVATIONS[config.activation](wide(hidden)).astype(hidden.dtype)
            hidden = self.transform_norm(hidden)
        logits = self.token.attend(hidden, config.readout) if config.tied else self.unembed(hidden)
        logits = constrain(logits + self.logit_bias, "batch", "length", "act_vocab")
        return unpadded(logits, self.predicted or self.vocab_size)

    def head(self, x: jax.Array) -> jax.Array:
        """float32[B, T, V']"""
        return self.logits(self.hidden(x))

    def pooled(self, hidden: jax.Array) -> jax.Array:
        """tanh(W h + b) of the first token: [B, D]."""
        return jnp.tanh(wide(self.pooler(hidden[:, 0]))).astype(hidden.dtype)

    def relation(self, pooled: jax.Array) -> jax.Array:
        """float32[B, 2]: logits of "the second sentence follows the first" and "it is another's" (Devlin et al. 2019, 3.1)."""
        return self.relation_(pooled)

    def __call__(self, tokens: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        x = self.hidden(self.blocks(self.embed(tokens, keys), keys))
        if self.config.pooler and self.is_initializing():
            pooled = self.pooled(x)
            if self.config.head != "none":
                self.relation(pooled)
        return x if self.config.head == "none" else self.logits(x)
