"""The vector-quantised autoencoder: a visual tokenizer whose codes are running means of what chooses them
(van den Oord et al. 2017; unit vectors of few dimensions: Peng et al. 2022, section 3.1)."""

from __future__ import annotations

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp

from pretrainx.core.axes import boxed
from pretrainx.core.errors import ConfigError
from pretrainx.core.images import Images
from pretrainx.core.records import ImageRows, Mean, Observation, Outcome, Sum, Term
from pretrainx.models.layers import Precision, wide
from pretrainx.models.sizes_vision import tokenizer_flops_per_image
from pretrainx.models.visual_tokenizer import VisualTokenizer, VisualTokenizerConfig, pictures_of, quantised
from pretrainx.objectives import codebook, pixels
from pretrainx.objectives.augmentation import Augmentation, AugmentConfig
from pretrainx.objectives.objective import Objective, check_outputs


@dataclass(frozen=True)
class VqVaeConfig:
    """The section `config.objective` of this paradigm; `config.model` is a visual_tokenizer of the kind "nearest".

    Attributes:
      commitment: coefficient of the vectors' distance to their codes.
      decay: of the running counts and sums that codes are made of.
      epsilon: of the smoothing of counts.
      revive_below: a code chosen less than so many times as often as the average becomes a random vector of the batch.
      fresh_cells: how many random cells of each picture are offered to dead codes.
      augment: what is done to a picture before.
    """

    commitment: float = field(default=0.25, metadata={"min": 0})
    decay: float = field(default=0.99, metadata={"min": 0, "below": 1})
    epsilon: float = field(default=1e-5, metadata={"min": 0})
    revive_below: float = field(default=0.1, metadata={"min": 0, "below": 1})
    fresh_cells: int = field(default=8, metadata={"min": 1})
    augment: AugmentConfig = AugmentConfig("mae")

    def build(self, model, images: Images, precision: Precision) -> VqVae:
        """`model` is the section `config.model`."""
        model, augmentation = tokenizer_config(model, "nearest"), self.augment.build(images)
        model.grid(augmentation.size)
        return VqVae(model.build(images, precision), images, augmentation, self)


@dataclass(frozen=True)
class Tokenizing(Objective):
    """What objectives that train a visual tokenizer have in common.

    Observations have inputs {"image": float32[S, S, C], augmented and normalised}, which is the target too, and weight one for
    each term.
    """

    model: VisualTokenizer
    images: Images
    augmentation: Augmentation

    @property
    def reads(self):
        return ImageRows(self.images.size, self.images.channels)

    @property
    def grid(self) -> int:
        return self.model.config.grid(self.augmentation.size)

    def batch_spec(self, rows):
        return self.reads.spec(rows)

    def init(self, key, batch):
        side = 2 * self.model.cell
        return self.model.init(key, jnp.zeros((1, side, side, self.images.channels)))["params"]

    def flops_per_row(self):
        return tokenizer_flops_per_image(self.model.config, self.augmentation.size, self.images.channels)

    def observe(self, key, example, step):
        picture = self.augmentation(key, pixels.unit(example["image"]))
        picture = pixels.normalised(picture, self.images)
        return Observation({"image": picture}, {}, {term.name: jnp.float32(1) for term in self.terms})

    def tokenizer(self, params, extras) -> dict:
        """The tree of the frozen tokenizer that this is after training."""
        raise TypeError(f"{type(self).__name__} must give its tokenizer")

    @property
    def output_names(self):
        return "hidden", "ids", "reconstruction"

    def outputs(self, params, extras, inputs, names, key=None, *, train=False):
        """ids int32[B, G, G]; reconstruction float[B, S, S, C] in [0, 1], made of the ids; hidden [B, G, G, c], the cells'
        vectors (or scores of codes).

        inputs: {"image": [B, S, S, C], bytes or floats in [0, 1]}, of any side that the cells fill.
        """
        check_outputs(names, self.output_names)
        picture, tree = pixels.unit(inputs["image"]), self.tokenizer(params, extras)
        image = pixels.normalised(picture, self.images)
        hidden = self.model.apply({"params": params}, image, method="encode_features")
        found = {"hidden": hidden}
        if self.model.config.kind == "nearest":
            found["ids"] = quantised(hidden, extras["codebook"])
        else:
            found["ids"] = hidden.argmax(-1).astype(jnp.int32)
        if "reconstruction" in names:
            found["reconstruction"] = pictures_of(self.model, tree, found["ids"])
        return {name: found[name] for name in names}


def votes_of(ids: jax.Array, codes: int, valid: jax.Array, dtype) -> jax.Array:
    """[cells, K]: which code each cell of ids int32[B, G, G] chose; zero in invalid rows."""
    votes = jax.nn.one_hot(ids, codes, dtype=dtype) * valid[:, None, None, None].astype(dtype)
    return votes.reshape(-1, codes)


def code_metrics(counts: jax.Array, below: float, weights: jax.Array) -> dict[str, Mean]:
    """ "perplexity" and "dead" of running means of how often codes were chosen, the same for every microbatch; weights [B]."""
    rows = weights.sum(dtype=float)
    found = {"perplexity": codebook.perplexity(counts), "dead": codebook.dead_share(counts, below)}
    return {name: Mean(value * rows, rows) for name, value in found.items()}


def row_sums(name: str, values: jax.Array, weights: jax.Array) -> tuple[dict, dict]:
    """({term: total}, {term: per row}) of one number per row."""
    rows = jnp.where(weights > 0, weights * values, 0)
    return {name: rows.sum()}, {name: jax.lax.stop_gradient(rows)}


@dataclass(frozen=True)
class VqVae(Tokenizing):
    """|x - decode(e)|^2 + 0.25 |z - sg(e)|^2, both means over numbers: pixels x, vectors z of the cells, the nearest codes e.

    The gradient of the decoder's input goes to z as if it were the code (straight-through). Codes have no gradient: they are in
    the extras ("counts", "sums", "codebook") and move after each step; `codebook.moved` says how. Metrics: "perplexity" and
    "dead" of the extras "used" before the step, running counts without what revival adds to them, and "mse" in units of the
    data's variance.
    """

    config: VqVaeConfig = VqVaeConfig()

    @property
    def terms(self):
        return Term("reconstruction"), Term("commitment", self.config.commitment)

    def start(self, key, params, batch):
        codes = self.model.first_codebook(key)
        empty = lambda like: boxed(jnp.zeros_like(like), "vocab", *[None] * (like.ndim - 1))
        none = lambda: empty(codes.value[:, 0])
        return params, {"codebook": codes, "sums": empty(codes.value), "counts": none(), "used": none()}

    def tokenizer(self, params, extras):
        return {"network": params, "codebook": extras["codebook"]}

    def encode(self, params, extras, observation, keys, step, *, train):
        run = lambda method, x: self.model.apply({"params": params}, x, method=method)
        image, weights, valid = observation.inputs["image"], observation.weights, observation.valid
        z = run("encode_features", image)
        still = jax.lax.stop_gradient(z)
        ids = quantised(still, extras["codebook"])
        codes = extras["codebook"][ids].astype(z.dtype)
        error = jnp.square(wide(run("decode", z + jax.lax.stop_gradient(codes - z))) - image).mean((1, 2, 3))
        distance = jnp.square(z - codes).mean((1, 2, 3))
        totals, per_row = row_sums("reconstruction", error, weights["reconstruction"])
        more, more_per_row = row_sums("commitment", distance, weights["commitment"])
        votes = votes_of(ids, self.model.count, valid, z.dtype)
        cells = still.reshape(still.shape[0], -1, still.shape[-1])
        draw = lambda key, cells: cells[jax.random.randint(key, (self.config.fresh_cells,), 0, cells.shape[0])]
        rows = weights["reconstruction"].sum(dtype=float)
        metrics = code_metrics(extras["used"], self.config.revive_below, weights["reconstruction"])
        return Outcome(
            totals=totals | more,
            per_row=per_row | more_per_row,
            collected={
                "counts": Sum(votes.sum(0)),
                "sums": Sum(jnp.matmul(votes.T, cells.reshape(-1, cells.shape[-1]), precision="highest")),
                "fresh": jax.vmap(draw)(keys, cells),
                "valid": valid,
            },
            metrics=metrics | {"mse": Mean(per_row["reconstruction"].sum(dtype=float), rows)},
        )

    def advance(self, params, extras, collected, key, step):
        fresh, valid = collected["fresh"], jnp.repeat(collected["valid"], self.config.fresh_cells)
        after = codebook.moved(
            extras,
            collected["counts"].array,
            collected["sums"].array,
            (fresh.reshape(-1, fresh.shape[-1]), valid),
            key,
            self.config.decay,
            self.config.epsilon,
            self.config.revive_below,
            self.model.config.normalise,
        )
        return params, extras | after


def tokenizer_config(model, kind: str) -> VisualTokenizerConfig:
    """The section `config.model`, which must be a visual tokenizer of this kind. ConfigError otherwise."""
    if not isinstance(model, VisualTokenizerConfig):
        raise ConfigError(
            "this objective trains a visual tokenizer",
            where="config.model.name",
            why=f"the model is a {type(model).__name__.removesuffix('Config')}",
            do="--config.model.name=visual_tokenizer",
        )
    if model.kind != kind:
        raise ConfigError(
            "this objective trains a tokenizer of another kind",
            where="config.model.kind",
            why=f"it is {model.kind!r}",
            do=f"--config.model.kind={kind}, or config.objective.name " + ("dvae" if kind == "nearest" else "vq_vae"),
        )
    return model
