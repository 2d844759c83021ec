"""The vision transformer: patches of a picture as tokens (Dosovitskiy et al. 2021), in the forms of MAE, BEiT and MoCo v3."""

from __future__ import annotations

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from flax import linen as nn

from pretrainx.core.errors import ConfigError
from pretrainx.core.images import Images
from pretrainx.models.attention_pool import MapHead
from pretrainx.models.layers import ACTIVATIONS, LAWS, Linear, Norm, Precision, Spread, dropout, wide
from pretrainx.models.patches import patchify, relative_index, sincos_table
from pretrainx.models.stack import Around, StackConfig
from pretrainx.models.stacked import Stack
from pretrainx.parallel.rules import constrain, constrain_groups, row_groups

POSITIONS = ("learned", "sincos", "relative", "none")
POOLS = ("class", "mean", "map")
INITIAL = ("truncated", "normal", "xavier")


@dataclass(frozen=True)
class VitConfig(StackConfig):
    """Sizes and habits of the vision transformer, beside those of StackConfig (of which tables of words have no use here).

    ViT-B is width 768, depth 12, heads 12; ViT-L 1024, 24, 16.

    Attributes:
      patch: side P of a patch, in pixels.
      positions: "learned" table, "sincos": constants of row and column (MAE, MoCo v3), "relative": biases of the scores by
        how far patches lie apart, one table for all blocks (BEiT), or "none".
      class_token: a learned token stands before the patches.
      pool: the feature is the "class" token's, the "mean" over patches, or what a learned query reads of all tokens ("map",
        SigLIP).
      pool_norm: the norm comes after the mean over patches, not before it.
      layer_scale: each branch is multiplied by learned factors that start here; 0 is no such factors (BEiT-B 0.1, -L 1e-5).
      drop_path: rate at which the last block's branches are left out of a row; it rises from 0 at the first, linearly.
      key_bias: keys have a bias (BEiT: not); patch_bias: the product with a patch's pixels has (CLIP: not).
      embedding_norm: a norm comes before the blocks (CLIP).
      norm_first: norms at the input of each branch and once at the end.
      initial: "truncated" or whole "normal" of initial_std, or "xavier": uniform by a matrix's inputs and outputs (MAE).
      mask_token: there is a learned token for hidden patches (BEiT).
      smaller_residual: what block l = 1..L adds starts smaller: the matrices out of its attention and its MLP are divided by
        sqrt(2 l) (BEiT); not with "xavier".
    """

    norm_epsilon: float = field(default=1e-6, metadata={"above": 0})
    activation: str = field(default="gelu", metadata={"choices": tuple(ACTIVATIONS)})
    patch: int = field(default=16, metadata={"min": 1})
    positions: str = field(default="learned", metadata={"choices": POSITIONS})
    class_token: bool = True
    pool: str = field(default="class", metadata={"choices": POOLS})
    pool_norm: bool = False
    layer_scale: float = field(default=0.0, metadata={"min": 0})
    drop_path: float = field(default=0.0, metadata={"min": 0, "max": 0.99})
    key_bias: bool = True
    patch_bias: bool = True
    embedding_norm: bool = False
    norm_first: bool = True
    initial: str = field(default="truncated", metadata={"choices": INITIAL})
    mask_token: bool = False
    smaller_residual: bool = False

    def __post_init__(self):
        super().__post_init__()
        for wrong, what, where, why, do in (
            (
                self.pool == "class" and not self.class_token,
                "there is no class token to read the feature from",
                "config.model.pool",
                "class_token is False",
                "--config.model.pool=mean",
            ),
            (
                self.pool_norm and self.pool != "mean",
                "the norm after pooling belongs to the mean over patches",
                "config.model.pool_norm",
                f"pool is {self.pool!r}",
                "--config.model.pool=mean, or --config.model.pool_norm=False",
            ),
            (
                self.positions == "sincos" and self.width % 4 != 0,
                "positions of two coordinates are pairs of a sine and a cosine for each",
                "config.model.width",
                f"got {self.width}",
                "choose a multiple of 4",
            ),
            (
                self.smaller_residual and self.initial == "xavier",
                "matrices that start by their inputs and outputs are not divided",
                "config.model.smaller_residual",
                "initial is 'xavier'",
                "--config.model.smaller_residual=False, or --config.model.initial=truncated",
            ),
        ):
            if wrong:
                raise ConfigError(what, where=where, why=why, do=do)

    def spread(self, depth: int, layer: jax.Array | int = 0) -> Spread:
        if self.initial != "xavier":
            std = self.hidden_std
            out = std / (2 * (layer + 1)) ** 0.5 if self.smaller_residual else std
            return Spread(self.query_std(std), std, out, std, out, self.initial)
        queries, keys = self.heads * self.head_size, self.shared_heads * self.head_size
        mlp = xavier(self.width, self.mlp_size)
        return Spread(
            self.query_std(xavier(self.width, queries)),
            xavier(self.width, keys),
            xavier(queries, self.width),
            mlp,
            mlp,
            "uniform",
        )

    def grid(self, size: int) -> int:
        """Patches along a side of pictures of this side; ConfigError where it is not a whole number."""
        if size % self.patch:
            raise ConfigError(
                "the patches do not fill the pictures",
                where="config.model.patch",
                why=f"pictures of {size} x {size} pixels, patches of {self.patch}",
                do="choose a patch that divides the side",
            )
        return size // self.patch

    def build(self, images: Images, precision: Precision, size: int = 0) -> Vit:
        """The model for pictures of the side `size`, in pixels; 0 is that of the data."""
        size = size or images.size
        self.check(self.grid(size) ** 2 + self.class_token, precision)
        return Vit(self, size, images.channels, precision)


def xavier(inputs: int, outputs: int) -> float:
    """The standard deviation of Glorot & Bengio (2010)."""
    return (2 / (inputs + outputs)) ** 0.5


class PatchBias(nn.Module):
    """What a stack adds to its attention scores for where query and key lie in the picture (Bao et al. 2021)."""

    grid: int
    heads: int
    class_token: bool
    precision: Precision

    @nn.compact
    def __call__(self, rows: int) -> jax.Array:
        """float32[G, H, T, T], a copy for each of the G groups of the `rows` of a batch, as RelativeBias has it."""
        index = relative_index(self.grid, self.class_token)
        count = (2 * self.grid - 1) ** 2 + 3 * self.class_token
        initial = nn.with_logical_partitioning(nn.initializers.zeros, ("bucket", "heads"))
        table = self.param("table", initial, (count, self.heads), self.precision.params)
        bias = jnp.moveaxis(wide(table)[index], -1, 0)
        return constrain_groups(jnp.broadcast_to(bias, (row_groups(rows), *bias.shape)))


class LearnedTable(nn.Module):
    """A row [D] per token, added to it. Its role is a bias: such tables are not decayed."""

    rows: int
    width: int
    std: float
    law: str
    precision: Precision

    @nn.compact
    def __call__(self) -> jax.Array:
        initial = nn.with_logical_partitioning(LAWS[self.law](self.std), ("place", "embed"))
        return self.param("table", initial, (self.rows, self.width), self.precision.params)


class Vit(nn.Module):
    """images float[B, S, S, C], normalised -> features [B, D]: `pooled(hidden(blocks(embed(images))))` is the call.

    `keys: key[B]` switches dropout and drop path on. n is the number of patches, row by row; where there is a class token it
    is the first of 1 + n tokens.
    """

    config: VitConfig
    size: int
    channels: int = 3
    precision: Precision = Precision()

    def setup(self):
        config, precision, width = self.config, self.precision, self.config.width
        inputs, outputs = (("patch", config.patch**2 * self.channels),), (("embed", width),)
        law = "normal" if config.initial == "xavier" else config.initial
        std = xavier(inputs[0][1], config.tuned_width) if config.initial == "xavier" else config.initial_std
        self.patches = Linear(inputs, outputs, std, config.patch_bias, precision, law=config.spread(config.depth).law)
        token = nn.with_logical_partitioning(LAWS[law](config.initial_std), ("embed",))
        if config.class_token:
            self.class_token = self.param("class_token", token, (width,), precision.params)
        if config.mask_token:
            self.mask_token = self.param("mask_token", token, (width,), precision.params)
        if config.positions == "learned":
            self.position = LearnedTable(self.count + config.class_token, width, config.initial_std, law, precision)
        if config.positions == "relative":
            self.relative = PatchBias(self.grid, config.heads, config.class_token, precision)
        self.layers = Stack(config, precision, config.depth, causal=False)
        norm = lambda: Norm(config.norm, config.norm_epsilon, precision)
        if config.embedding_norm:
            self.embedding_norm = norm()
        if config.pool == "map":
            self.map_head = MapHead(config, precision)
        if config.pool_norm:
            self.pool_norm = norm()
        elif config.norm_first:
            self.final_norm = norm()

    @property
    def grid(self) -> int:
        """Patches along a side."""
        return self.config.grid(self.size)

    @property
    def count(self) -> int:
        """Patches n of a picture."""
        return self.grid**2

    @property
    def feature_width(self) -> int:
        return self.config.width

    def embed(
        self,
        images: jax.Array,
        keys: jax.Array | None = None,
        masked: jax.Array | None = None,
        visible: jax.Array | None = None,
    ) -> jax.Array:
        """[B, 1 + n, D], or [B, 1 + k, D] where only k patches are seen.

        masked: bool[B, n], where the mask token stands in a patch's place; visible: int32[B, k], the patches that go on, in
        this order, with the positions that they have in the whole picture.
        """
        config = self.config
        if images.shape[1:] != (self.size, self.size, self.channels):
            raise ValueError(
                f"pictures {images.shape[1:]}, but the model is of side {self.size}, {self.channels} channels"
            )
        x = self.patches(patchify(images.astype(self.precision.compute), config.patch))
        if masked is not None:
            x = jnp.where(masked[..., None], self.mask_token, x)
        table = self._positions()
        if table is not None:
            x = x + table[int(config.class_token) :]
        if visible is not None:
            x = jnp.take_along_axis(x, visible[..., None], 1)
        if config.class_token:
            first = self.class_token if table is None else self.class_token + table[0]
            x = jnp.concatenate([jnp.broadcast_to(first, (x.shape[0], 1, config.width)).astype(x.dtype), x], 1)
        if config.embedding_norm:
            x = self.embedding_norm(x)
        x = dropout(x.astype(self.precision.compute), config.dropout, keys, 2 * config.depth)
        return constrain(x, "batch", "length", "act_embed")

    def _positions(self) -> jax.Array | None:
        """[n (+ 1), D] in float32 or wider, of all tokens"""
        config = self.config
        if config.positions == "learned":
            return self.position()
        if config.positions == "sincos":
            wider = jnp.promote_types(self.precision.params, jnp.float32)
            return jnp.asarray(sincos_table(self.grid, config.width, config.class_token), wider)
        return None

    def blocks(self, x: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        """[B, T, D] of what `embed` returned, before the last norm where norms come first"""
        around = Around(keys)
        if self.config.positions == "relative":
            if x.shape[1] != self.count + self.config.class_token:
                raise ValueError("relative positions need all patches of the picture")
            around = around.replace(bias=self.relative(x.shape[0]))
        return self.layers(x, jnp.arange(self.config.depth), None, None, around)[0]

    def hidden(self, x: jax.Array) -> jax.Array:
        """[B, T, D], what heads read: normalised, unless the norm comes after pooling."""
        config = self.config
        return self.final_norm(x) if config.norm_first and not config.pool_norm else x

    def pooled(self, hidden: jax.Array) -> jax.Array:
        """The picture's features [B, D] of hidden [B, 1 + n, D]."""
        if self.config.pool == "class":
            return hidden[:, 0]
        if self.config.pool == "map":
            return self.map_head(hidden)
        x = wide(hidden[:, int(self.config.class_token) :]).mean(1).astype(hidden.dtype)
        return self.pool_norm(x) if self.config.pool_norm else x

    def __call__(
        self, images: jax.Array, keys: jax.Array | None = None, valid: jax.Array | None = None, train: bool = False
    ) -> jax.Array:
        """valid and train are for networks with BatchNorm, which this one has not."""
        return self.pooled(self.hidden(self.blocks(self.embed(images, keys), keys)))
