"""Masked image modelling with discrete targets: name the visual tokens of hidden patches (Bao et al. 2022)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from flax import linen as nn

from pretrainx.core.errors import ConfigError
from pretrainx.core.images import Images
from pretrainx.core.records import ImageRows, Observation, Term
from pretrainx.models import sizes_vision, visual_tokenizer
from pretrainx.models.beit import TokenPredictor
from pretrainx.models.layers import Precision
from pretrainx.objectives import crops, cross_entropy, masking, pixels
from pretrainx.objectives.augmentation import Augmentation, AugmentConfig
from pretrainx.objectives.block_masks import block_mask
from pretrainx.objectives.cross_entropy import TokenLoss
from pretrainx.objectives.mae import masked_vit
from pretrainx.objectives.objective import Objective, check_outputs


@dataclass(frozen=True)
class TokenizerNetwork:
    """What builds the network of a visual tokenizer: sections of the run that trained it, and the pictures that it knows."""

    images: Images
    model: visual_tokenizer.VisualTokenizerConfig = visual_tokenizer.VisualTokenizerConfig()
    precision: Precision = Precision()

    def build(self) -> nn.Module:
        return self.model.build(self.images, self.precision)


@dataclass(frozen=True)
class BeitConfig:
    """The section `config.objective` of this paradigm; `config.model` is a ViT with a mask token.

    Attributes:
      tokenizer: workdir of the run that trained the visual tokenizer. It is read when the run starts; its weights are in every
        checkpoint from then on.
      network: of that tokenizer; filled in when the run starts, whatever is given.
      clusters: without such a run: tokens are the nearest of so many k-means centres of patches, found when the run starts. No
        network makes them; a floor to hold tokenizers against, and what tests use.
      mask_count: how many patches are hidden at most; 0 is round(mask_share n).
      mask_share: 75 of 196 by default.
      min_block, min_aspect: of the rectangles that are hidden: least area in patches, and least height / width.
      loss: how tokens are scored.
      augment: what is done to a picture before; tokenizer and model see the same.
    """

    tokenizer: str = ""
    network: TokenizerNetwork | None = None
    clusters: int = field(default=0, metadata={"min": 0})
    mask_count: int = field(default=0, metadata={"min": 0})
    mask_share: float = field(default=75 / 196, metadata={"above": 0, "below": 1})
    min_block: int = field(default=16, metadata={"min": 1})
    min_aspect: float = field(default=0.3, metadata={"above": 0, "max": 1})
    loss: TokenLoss = TokenLoss()
    augment: AugmentConfig = AugmentConfig("beit")

    def __post_init__(self):
        if self.tokenizer and self.clusters:
            raise ConfigError(
                "there are two tokenizers",
                where="config.objective.clusters",
                why=f"{self.clusters}, and config.objective.tokenizer is {self.tokenizer!r}",
                do="choose one",
            )

    def build(self, model, images: Images, precision: Precision, tokenizer: nn.Module | None = None) -> Beit:
        """`model` is the section `config.model`; `tokenizer` the unbound module of the frozen tokenizer, such as
        VisualTokenizerConfig.build makes of the other run's sections."""
        model, augmentation = masked_vit(model, "masked image modelling"), self.augment.build(images)
        grid = model.grid(augmentation.size)
        if not model.mask_token:
            raise ConfigError(
                "hidden patches need a mask token",
                where="config.model.mask_token",
                why="it is False",
                do="--config.model.mask_token=True",
            )
        if tokenizer is None:
            raise ConfigError(
                "what is to be predicted are the tokens of a visual tokenizer, and there is none",
                where="config.objective.tokenizer",
                why=f"it is {self.tokenizer!r}",
                do="train one (objective vq_vae or dvae) and name its workdir, or set config.objective.clusters",
            )
        if tokenizer.cell > model.patch:
            raise ConfigError(
                "a cell of the tokenizer is larger than a patch: it would read pictures that are blown up",
                where="config.model.patch",
                why=f"patches of {model.patch} pixels, cells of {tokenizer.cell}; their grids must be equal",
                do="choose larger patches, or a tokenizer with smaller cells",
            )
        if tokenizer.images.channels != images.channels:
            raise ConfigError(
                "the tokenizer was trained on pictures of another kind",
                where="config.objective.tokenizer",
                why=f"{tokenizer.images.channels} channels, the data have {images.channels}",
                do="choose a tokenizer of such data",
            )
        if not 0 < self.hidden(grid) < grid * grid or self.min_block > self.hidden(grid):
            raise ConfigError(
                "the blocks that are hidden do not fit",
                where="config.objective.min_block",
                why=f"{self.hidden(grid)} of {grid} x {grid} patches are to be hidden, in blocks of {self.min_block} or more",
                do="choose smaller blocks, another mask_share or smaller patches",
            )
        network = TokenPredictor(model.build(images, precision, augmentation.size), tokenizer.count, precision)
        return Beit(network, tokenizer, images, augmentation, self)

    def hidden(self, grid: int) -> int:
        """How many patches are hidden, at most."""
        return self.mask_count or round(self.mask_share * grid * grid)


@dataclass(frozen=True)
class Beit(Objective):
    """Mean negative log-likelihood of the tokens of hidden patches, given the picture in which they are hidden.

    `init` makes the tokenizer too, as params["tokenizer"], so that parameters of another run can be put in its place; `start`
    moves it to the extras, and from then on it is frozen: no gradient, no update, no decay. It reads the same crop as the
    model, resampled so that its cells are the model's patches.

    Observations have inputs {"image": float32[S, S, C], augmented and normalised; "cells": float32[G p, G p, C] in [0, 1],
    the same crop for the tokenizer; "masked": bool[n]}, no targets, and weights {"nll": float32[n]}, 1 where a patch is hidden.
    """

    model: TokenPredictor
    tokenizer: nn.Module
    images: Images
    augmentation: Augmentation
    config: BeitConfig = BeitConfig()

    terms = (Term("nll"),)
    unit_pictures = ("cells",)

    @property
    def reads(self):
        return ImageRows(self.images.size, self.images.channels)

    @property
    def grid(self) -> int:
        return self.model.encoder.grid

    @property
    def marks(self) -> int:
        """Tokens in front of the patches."""
        return int(self.model.encoder.config.class_token)

    @property
    def cells_side(self) -> int:
        """Side of the picture that the tokenizer reads, in pixels."""
        return self.grid * self.tokenizer.cell

    def batch_spec(self, rows):
        return self.reads.spec(rows)

    def init(self, key, batch):
        size, modelling = self.augmentation.size, jax.random.fold_in(key, 0)
        picture = jnp.zeros((1, size, size, self.images.channels))
        params = self.model.init(modelling, picture, jnp.ones((1, self.grid**2), bool))["params"]
        frozen = visual_tokenizer.first_tree(self.tokenizer, jax.random.fold_in(key, 1), self.tokenizer.images)
        return {**params, "tokenizer": frozen}

    constants = ("tokenizer",)

    def start(self, key, params, batch):
        return {name: tree for name, tree in params.items() if name != "tokenizer"}, {"tokenizer": params["tokenizer"]}

    def observe(self, key, example, step):
        changing, hiding = jax.random.split(key)
        picture = pixels.unit(example["image"])
        seen, cells = self.augmentation(changing, picture), dataclasses.replace(self.augmentation, size=self.cells_side)
        inputs = {"image": pixels.normalised(seen, self.images), "masked": self.mask(hiding)}
        # What a key draws does not depend on the size: it is the same crop.
        inputs["cells"] = seen if self.cells_side == self.augmentation.size else cells(changing, picture)
        return Observation(inputs, {}, {"nll": inputs["masked"].astype(jnp.float32)})

    def mask(self, key: jax.Array) -> jax.Array:
        """bool[n]"""
        config = self.config
        count = config.hidden(self.grid)
        return block_mask(key, self.grid, count, config.min_block, config.min_aspect).reshape(-1)

    def targets(self, extras, cells: jax.Array) -> jax.Array:
        """int32[B, n] of pictures float[B, G p, G p, C] in [0, 1]."""
        return visual_tokenizer.ids_of(self.tokenizer, extras["tokenizer"], cells).reshape(cells.shape[0], -1)

    def encode(self, params, extras, observation, keys, step, *, train):
        run = lambda method, *args: self.model.apply({"params": params}, *args, method=method)
        inputs, count = observation.inputs, self.config.hidden(self.grid)
        targets = self.targets(extras, inputs["cells"])
        hidden = run("hidden", inputs["image"], inputs["masked"], keys if train else None)[:, self.marks :]
        # The head reads as many patches as can be hidden; where fewer are, the others have no weight.
        positions, weights = jax.vmap(lambda row: masking.gather_positions(row, count))(observation.weights["nll"])
        targets = jnp.take_along_axis(targets, positions, 1)
        read = jnp.take_along_axis(hidden, positions[..., None], 1)
        head = lambda x: run("logits", x)
        return cross_entropy.scored(head, read, targets, weights, "nll", self.config.loss.when(train))

    def flops_per_row(self):
        shape, codes = (self.augmentation.size, self.images.channels), self.model.codes
        encoder, predicted = self.model.encoder.config, self.config.hidden(self.grid)
        named = sizes_vision.ids_flops(self.tokenizer, self.cells_side)
        return sizes_vision.beit_flops_per_image(encoder, *shape, codes, predicted) + named

    def parameter_counts(self):
        config, codes = self.model.encoder.config, self.model.codes
        shape = self.augmentation.size, self.images.channels
        return sizes_vision.image_counts(config, *shape, more=(config.width + 1) * codes)

    @property
    def output_names(self):
        return "features", "hidden", "targets", "hidden_patches", "logits", "reconstruction"

    def outputs(self, params, extras, inputs, names, key=None, *, train=False):
        """Of whole pictures: features [B, D]; hidden [B, t + n, D], t = 1 with a class token; targets int32[B, n], the
        tokenizer's ids.

        Of the pictures with patches hidden: hidden_patches bool[B, n]; logits float[B, n, K]; reconstruction
        float[B, S', S', C] in [0, 1], what the tokenizer makes of its ids with those of hidden patches as predicted.

        inputs: {"image": [B, S, S, C], bytes or floats in [0, 1]}, S the stored or the augmented size; optionally "masked"
        bool[B, n]; otherwise drawn with `key`, or with a fixed one.
        """
        check_outputs(names, self.output_names)
        run = lambda method, *args: self.model.apply({"params": params}, *args, method=method)
        picture = pixels.unit(inputs["image"])
        image = pixels.normalised(crops.whole(picture, self.augmentation.size), self.images)
        rows, found, asked = image.shape[0], {}, {*names}
        if {"features", "hidden"} & asked:
            keys = jax.random.split(key, rows) if train and key is not None else None
            found["hidden"] = run("hidden", image, None, keys)
            found["features"] = run("pooled", found["hidden"])
        if {"targets", "reconstruction"} & asked:
            found["targets"] = self.targets(extras, crops.whole(picture, self.cells_side))
        if {"hidden_patches", "logits", "reconstruction"} & asked:
            masked = inputs.get("masked")
            if masked is None:
                masked = jax.vmap(self.mask)(jax.random.split(jax.random.key(0) if key is None else key, rows))
            found["hidden_patches"] = masked
            found["logits"] = run("logits", run("hidden", image, masked)[:, self.marks :])
        if "reconstruction" in names:
            ids = jnp.where(masked, found["logits"].argmax(-1).astype(jnp.int32), found["targets"])
            ids = ids.reshape(rows, self.grid, self.grid)
            found["reconstruction"] = visual_tokenizer.pictures_of(self.tokenizer, extras["tokenizer"], ids)
        return {name: found[name] for name in names}
