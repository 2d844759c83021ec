"""Masked autoencoding: hide most patches of a picture, recover their pixels from the others (He et al. 2022)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp

from pretrainx.core.errors import ConfigError
from pretrainx.core.images import Images
from pretrainx.core.records import ImageRows, Observation, Term
from pretrainx.models import sizes_vision
from pretrainx.models.layers import Precision, wide
from pretrainx.models.mae import MaskedAutoencoder
from pretrainx.models.patches import patchify, unpatchify
from pretrainx.models.vit import VitConfig
from pretrainx.objectives import crops, cross_entropy, pixels
from pretrainx.objectives.augmentation import Augmentation, AugmentConfig
from pretrainx.objectives.objective import Objective, check_outputs

EPSILON = 1e-6  # added to a patch's variance


@dataclass(frozen=True)
class MaeConfig:
    """The section `config.objective` of this paradigm; `config.model` is the encoder.

    Attributes:
      mask_ratio: share of the patches that are hidden; int(n (1 - mask_ratio)) stay visible.
      normalise_pixels: what is to be recovered is each patch less its mean, divided by its deviation.
      decoder_width, decoder_depth, decoder_heads: sizes of the decoder.
      decoder_mlp_width: 0 is 4 x decoder_width.
      augment: what is done to a picture before.
    """

    mask_ratio: float = field(default=0.75, metadata={"above": 0, "below": 1})
    normalise_pixels: bool = True
    decoder_width: int = field(default=512, metadata={"min": 4})
    decoder_depth: int = field(default=8, metadata={"min": 1})
    decoder_heads: int = field(default=16, metadata={"min": 1})
    decoder_mlp_width: int = field(default=0, metadata={"min": 0})
    augment: AugmentConfig = AugmentConfig("mae")

    def __post_init__(self):
        if self.decoder_width % 4 or self.decoder_width % self.decoder_heads:
            raise ConfigError(
                "the decoder's width does not divide",
                where="config.objective.decoder_width",
                why=f"{self.decoder_width}: each of {self.decoder_heads} heads takes a part, and positions are sines and "
                "cosines of rows and columns",
                do="choose a multiple of 4 and of the heads",
            )

    def build(self, model, images: Images, precision: Precision) -> Mae:
        """`model` is the section `config.model`."""
        model, augmentation = masked_vit(model, "masked autoencoding"), self.augment.build(images)
        size = augmentation.size
        grid = model.grid(size)
        if model.mask_token:
            raise ConfigError(
                "the encoder of a masked autoencoder sees no mask token",
                where="config.model.mask_token",
                why="it is True: a parameter that nothing would train",
                do="--config.model.mask_token=False",
            )
        if model.positions == "relative":
            raise ConfigError(
                "relative positions need all patches of the picture",
                where="config.model.positions",
                why="the encoder sees the visible ones only",
                do="--config.model.positions=sincos or learned",
            )
        if not 0 < self.visible(grid * grid) < grid * grid:
            raise ConfigError(
                "nothing is hidden, or nothing is visible",
                where="config.objective.mask_ratio",
                why=f"{self.mask_ratio:g} of {grid} x {grid} patches",
                do="choose another ratio, or smaller patches",
            )
        # The decoder is another ViT's stack, with the encoder's habits.
        decoder = dataclasses.replace(
            model,
            width=self.decoder_width,
            depth=self.decoder_depth,
            heads=self.decoder_heads,
            mlp_width=self.decoder_mlp_width,
            kv_heads=0,
            head_dim=0,
            dropout=0.0,
            drop_path=0.0,
            layer_scale=0.0,
        )
        encoder = model.build(images, precision, size)
        network = MaskedAutoencoder(encoder, decoder, grid, model.patch**2 * images.channels, precision)
        return Mae(network, images, augmentation, self)

    def visible(self, patches: int) -> int:
        """How many of n patches the encoder sees."""
        return int(patches * (1 - self.mask_ratio))


@dataclass(frozen=True)
class Mae(Objective):
    """Mean-square error of the pixels of hidden patches: the mean over a patch's pixels, then over all hidden patches.

    Observations have inputs {"image": float32[S, S, C], augmented and normalised; "order": int32[n], the patches in the order
    in which the first so many are visible; "restore": int32[n], its inverse}; targets float32[n, P x P x C], the same picture's
    patches; weights {"mse": float32[n]}, 1 where a patch is hidden.
    """

    model: MaskedAutoencoder
    images: Images
    augmentation: Augmentation
    config: MaeConfig = MaeConfig()

    terms = (Term("mse"),)

    @property
    def reads(self):
        return ImageRows(self.images.size, self.images.channels)

    @property
    def patch(self) -> int:
        return self.model.encoder.config.patch

    @property
    def patches(self) -> int:
        return self.model.grid**2

    @property
    def visible(self) -> int:
        return self.config.visible(self.patches)

    def batch_spec(self, rows):
        return self.reads.spec(rows)

    def init(self, key, batch):
        size = self.augmentation.size
        picture, order = jnp.zeros((1, size, size, self.images.channels)), jnp.arange(self.patches)[None]
        return self.model.init(key, picture, order[:, : self.visible], order)["params"]

    def observe(self, key, example, step):
        changing, shuffling = jax.random.split(key)
        picture = self.augmentation(changing, pixels.unit(example["image"]))
        picture = pixels.normalised(picture, self.images)
        order, restore = shuffled(shuffling, self.patches)
        hidden = (restore >= self.visible).astype(jnp.float32)
        # In float64 where that is on: moments of few pixels would show how a program was fused.
        targets = self.targets(patchify(picture[None], self.patch)[0].astype(float))
        return Observation({"image": picture, "order": order, "restore": restore}, targets, {"mse": hidden})

    def targets(self, patches: jax.Array) -> jax.Array:
        """What is to be recovered of patches [..., P x P x C]: with normalise_pixels (t - mean) / sqrt(variance + 1e-6), the
        variance divided by P x P x C - 1, as released weights were trained."""
        if not self.config.normalise_pixels:
            return patches
        mean, deviation = _moments(patches)
        return (patches - mean) / deviation

    def encode(self, params, extras, observation, keys, step, *, train):
        inputs = observation.inputs
        prediction = self.model.apply(
            {"params": params},
            inputs["image"],
            inputs["order"][:, : self.visible],
            inputs["restore"],
            keys if train else None,
        )
        error = jnp.square(prediction - observation.targets).mean(-1)
        return cross_entropy.outcome("mse", error, observation.weights["mse"])

    def flops_per_row(self):
        return sizes_vision.mae_flops_per_image(
            self.model.encoder.config, self.model.decoder, self.augmentation.size, self.images.channels, self.visible
        )

    def parameter_counts(self):
        shape = self.augmentation.size, self.images.channels
        return sizes_vision.mae_counts(self.model.encoder.config, self.model.decoder, *shape)

    @property
    def output_names(self):
        return "features", "hidden", "reconstruction", "hidden_patches", "prediction"

    def outputs(self, params, extras, inputs, names, key=None, *, train=False):
        """Of whole pictures, the encoder seeing all patches: features [B, D]; hidden [B, t + n, D], t = 1 with a class token.

        Of the pictures with patches hidden: hidden_patches bool[B, n]; reconstruction float[B, S, S, C] in [0, 1], the visible
        patches as they are and the hidden ones as predicted (with normalise_pixels in the light of the true mean and deviation
        of each, as the paper's figures are made); prediction float[B, n, P x P x C], in the units of `targets`.

        inputs: {"image": [B, S, S, C], bytes or floats in [0, 1]}, S the stored or the augmented size; optionally "order"
        int32[B, n], which patches are seen; otherwise drawn with `key`, or with a fixed one.
        """
        check_outputs(names, self.output_names)
        run = lambda method, *args: self.model.apply({"params": params}, *args, method=method)
        picture = crops.whole(pixels.unit(inputs["image"]), self.augmentation.size)
        image = pixels.normalised(picture, self.images)
        found = {}
        if {"features", "hidden"} & {*names}:
            keys = jax.random.split(key, image.shape[0]) if train and key is not None else None
            found["hidden"] = run("encode", image, None, keys)
            found["features"] = run("pooled", found["hidden"])
        if {"reconstruction", "hidden_patches", "prediction"} & {*names}:
            order = inputs.get("order")
            if order is None:
                keys = jax.random.split(jax.random.key(0) if key is None else key, image.shape[0])
                order, _ = jax.vmap(lambda each: shuffled(each, self.patches))(keys)
            restore = jnp.argsort(order)
            found["hidden_patches"] = restore >= self.visible
            found["prediction"] = run("__call__", image, order[:, : self.visible], restore)
            patches = patchify(image, self.patch)
            guess = found["prediction"]
            if self.config.normalise_pixels:
                mean, deviation = _moments(patches)
                guess = guess * deviation + mean
            shown = jnp.where(found["hidden_patches"][..., None], guess, patches)
            shown = unpatchify(shown, self.patch, self.images.channels)
            found["reconstruction"] = jnp.clip(pixels.denormalised(shown, self.images), 0, 1)
        return {name: found[name] for name in names}


def shuffled(key: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """(order, restore): a random permutation int32[count] and its inverse."""
    order = jnp.argsort(jax.random.uniform(key, (count,), jnp.float32)).astype(jnp.int32)
    return order, jnp.argsort(order).astype(jnp.int32)


def _moments(patches: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(mean, deviation) of each patch, [..., 1]."""
    patches = wide(patches)
    variance = patches.var(-1, keepdims=True, ddof=1)
    return patches.mean(-1, keepdims=True), jnp.sqrt(variance + EPSILON)


def masked_vit(model, paradigm: str) -> VitConfig:
    """The section `config.model`, which must be a ViT whose last norm is that of its tokens. ConfigError otherwise."""
    if not isinstance(model, VitConfig):
        raise ConfigError(
            f"{paradigm} needs a model of patches",
            where="config.model.name",
            why=f"the model is a {type(model).__name__.removesuffix('Config')}",
            do="--config.model.name=vit",
        )
    if model.pool_norm:
        raise ConfigError(
            f"{paradigm} reads tokens, which must be normalised",
            where="config.model.pool_norm",
            why="it is True: the last norm would come after pooling, and tokens have none",
            do="--config.model.pool_norm=False; a fine-tuning may have it",
        )
    return model
