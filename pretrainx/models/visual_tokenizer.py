"""Pictures as grids of ids and back: the tokenizer that BEiT's targets come from
(van den Oord et al. 2017; Ramesh et al. 2021)."""

from __future__ import annotations

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from flax import linen as nn

from pretrainx.core.axes import boxed
from pretrainx.core.errors import ConfigError
from pretrainx.core.images import Images
from pretrainx.models.convolution import Convolution
from pretrainx.models.layers import Embedding, Linear, Norm, Precision, wide
from pretrainx.models.patches import patchify, unpatchify
from pretrainx.parallel.rules import constrain

KINDS = ("nearest", "logits")


@dataclass(frozen=True)
class VisualTokenizerConfig:
    """The section `config.model` with the name "visual_tokenizer".

    Attributes:
      kind: "nearest" looks a cell's vector up in a codebook (the objective vq_vae), "logits" scores all codes (dvae).
      codes: K, how many ids there are.
      code_width: numbers of a code.
      patch: pixels along a side of a cell, a power of 2: the picture is halved so many times.
      width: of the network at the grid of cells; it is halved with each doubling of the resolution.
      blocks: residual blocks at the grid of cells, in the encoder and again in the decoder.
      normalise: vectors and codes have length 1 ("nearest" only; Peng et al. 2022, section 3.1).
    """

    kind: str = field(default="nearest", metadata={"choices": KINDS})
    codes: int = field(default=512, metadata={"min": 2})
    code_width: int = field(default=32, metadata={"min": 1})
    patch: int = field(default=8, metadata={"min": 2})
    width: int = field(default=128, metadata={"min": 1})
    blocks: int = field(default=2, metadata={"min": 0})
    normalise: bool = True

    def __post_init__(self):
        if self.patch & (self.patch - 1):
            raise ConfigError(
                "a picture is halved a whole number of times",
                where="config.model.patch",
                why=f"got {self.patch}",
                do="choose a power of 2",
            )
        if self.width % (self.patch // 2):
            raise ConfigError(
                "the width cannot be halved as often as the picture",
                where="config.model.width",
                why=f"{self.width}, {self.halvings - 1} times",
                do=f"choose a multiple of {self.patch // 2}",
            )

    @property
    def halvings(self) -> int:
        return self.patch.bit_length() - 1

    def grid(self, size: int) -> int:
        """Cells along a side of pictures of this side; ConfigError where it is not a whole number."""
        if size % self.patch:
            raise ConfigError(
                "the cells do not fill the pictures",
                where="config.model.patch",
                why=f"pictures of {size} x {size} pixels, cells of {self.patch}",
                do="choose a power of 2 that divides the side",
            )
        return size // self.patch

    def build(self, images: Images, precision: Precision) -> VisualTokenizer:
        """The network for pictures with these statistics, of any side that `grid` takes."""
        return VisualTokenizer(self, images, precision)


class Residual(nn.Module):
    """x + W relu(3 x 3 convolution of norm(x)), of x [B, G, G, D]."""

    precision: Precision

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        y = Convolution(width, 3, 1, self.precision)(Norm("layer", 1e-6, self.precision)(x))
        return whole(x + dense("channels", width, "features", width, self.precision)(jax.nn.relu(whole(y))))


def whole(x: jax.Array) -> jax.Array:
    """x [B, G, G, D] with the channels of a cell on one device: spread as the kernels are, gradients came out wrong."""
    return constrain(x, "batch", None, None, None)


def dense(inner: str, inputs: int, outer: str, outputs: int, precision: Precision, wide: bool = False) -> Linear:
    """Starts as He et al. (2015), by inputs."""
    return Linear(((inner, inputs),), ((outer, outputs),), (2 / inputs) ** 0.5, True, precision, wide)


class VisualTokenizer(nn.Module):
    """Pictures -> vectors of cells -> codes -> pictures.

    Each halving is a dense layer over 2 x 2 places; only the residual blocks look beyond a cell. A codebook [K, c] of the kind
    "nearest" is no parameter: its owner gives it. That of the kind "logits" is the table `codes`.

    Attributes:
      images: the statistics that pictures are normalised with.
    """

    config: VisualTokenizerConfig
    images: Images
    precision: Precision = Precision()

    def setup(self):
        config, precision = self.config, self.precision
        widths = [config.width >> back for back in reversed(range(config.halvings))]
        channels, scores = self.images.channels, config.kind == "logits"
        inputs = [channels, *widths[:-1]]
        axes = ["patch", *["channels"] * (config.halvings - 1)]
        self.down = [
            dense(axis, 4 * before, "features", after, precision)
            for axis, before, after in zip(axes, inputs, widths, strict=True)
        ]
        self.encoder_blocks = [Residual(precision) for _ in range(config.blocks)]
        self.encoder_norm = Norm("layer", 1e-6, precision)
        outer, outputs = ("vocab", config.codes) if scores else ("features", config.code_width)
        self.to_code = dense("channels", config.width, outer, outputs, precision, wide=True)
        if scores:
            self.codes = Embedding(config.codes, config.code_width, "vocab", 1.0, precision)
        self.from_code = dense("channels", config.code_width, "features", config.width, precision)
        self.decoder_blocks = [Residual(precision) for _ in range(config.blocks)]
        # The likelihood of the kind "logits" has a place and a width of each number.
        last = channels * (2 if scores else 1)
        self.up = [
            dense("channels", before, "features", 4 * after, precision)
            for before, after in zip(reversed(widths[1:]), reversed(widths[:-1]), strict=True)
        ]
        self.to_pixels = dense("channels", widths[0], "patch", 4 * last, precision, wide=True)

    @property
    def cell(self) -> int:
        """Pixels along a side of a cell."""
        return self.config.patch

    @property
    def count(self) -> int:
        """How many ids there are."""
        return self.config.codes

    def encode_features(self, images: jax.Array) -> jax.Array:
        """float32 or wider [B, G, G, c] ("nearest", of length 1 where that is asked for) or logits [B, G, G, K], of normalised
        pictures [B, S, S, C]."""
        x = images.astype(self.precision.compute)
        for number, layer in enumerate(self.down):
            rows, side = x.shape[0], x.shape[1] // 2
            # Cells of which nothing is left have no direction: no activation cuts them off.
            x = jax.nn.gelu(x) if number else x
            x = whole(layer(patchify(x, 2)).reshape(rows, side, side, -1))
        for block in self.encoder_blocks:
            x = block(x)
        z = whole(wide(self.to_code(self.encoder_norm(x))))
        return unit_length(z) if self.config.normalise and self.config.kind == "nearest" else z

    def decode(self, codes: jax.Array) -> jax.Array:
        """float32 or wider [B, S, S, C], or [B, S, S, 2 C] of the kind "logits", of codes [B, G, G, c]."""
        x = whole(self.from_code(codes))
        for block in self.decoder_blocks:
            x = block(x)
        for layer in (*self.up, self.to_pixels):
            y = whole(layer(jax.nn.gelu(x)))
            rows, side, outputs = y.shape[0], y.shape[1], y.shape[-1] // 4
            x = unpatchify(y.reshape(rows, side * side, -1), 2, outputs)
        return x

    def mixed(self, shares: jax.Array) -> jax.Array:
        """Codes [B, G, G, c] as mixtures of all codes, by shares [B, G, G, K]; of the kind "logits"."""
        return shares @ wide(self.codes.table)

    def ids(self, pictures: jax.Array, codebook: jax.Array | None = None) -> jax.Array:
        """int32[B, G, G] of pictures float[B, S, S, C] in [0, 1]."""
        z = self.encode_features(normal(pictures, self.images))
        return quantised(z, codebook) if self.config.kind == "nearest" else z.argmax(-1).astype(jnp.int32)

    def pictures(self, ids: jax.Array, codebook: jax.Array | None = None) -> jax.Array:
        """float[B, S, S, C], in [0, 1] but for what the network overshoots, of ids int32[B, G, G]."""
        if self.config.kind == "nearest":
            found = self.decode(codebook[ids])
            return found * jnp.asarray(self.images.std, found.dtype) + jnp.asarray(self.images.mean, found.dtype)
        place, _ = jnp.split(self.decode(self.codes(ids)), 2, axis=-1)
        return from_interior(jax.nn.sigmoid(place))

    def first_codebook(self, key: jax.Array):
        """A boxed random codebook [K, c] in float32 or wider, as running means must be; None of the kind "logits"."""
        if self.config.kind == "logits":
            return None
        dtype = jnp.promote_types(self.precision.params, jnp.float32)
        codes = jax.random.normal(key, (self.config.codes, self.config.code_width), dtype)
        return boxed(unit_length(codes) if self.config.normalise else codes, "vocab", None)

    def __call__(self, images: jax.Array) -> jax.Array:
        z = self.encode_features(images)
        if self.config.kind == "logits":
            return self.decode(self.mixed(jax.nn.softmax(z)))
        return self.decode(z)


# The logit of a pixel is finite: [0, 1] is mapped to [0.1, 0.9] (Ramesh et al. 2021, appendix A.3).
MARGIN = 0.1


def to_interior(pixels: jax.Array) -> jax.Array:
    return (1 - 2 * MARGIN) * pixels + MARGIN


def from_interior(pixels: jax.Array) -> jax.Array:
    return (pixels - MARGIN) / (1 - 2 * MARGIN)


def normal(pictures: jax.Array, images: Images) -> jax.Array:
    """(x - mean) / std per channel."""
    return (pictures - jnp.asarray(images.mean, pictures.dtype)) / jnp.asarray(images.std, pictures.dtype)


def unit_length(x: jax.Array) -> jax.Array:
    """x [..., c] divided by its length; zero stays zero, with a derivative of 1,000 at most."""
    return x * jax.lax.rsqrt(jnp.square(x).sum(-1, keepdims=True) + 1e-6)


def quantised(z: jax.Array, codebook: jax.Array) -> jax.Array:
    """int32[...]: which code of the codebook [K, c] is nearest to z [..., c], the first of equals. In float32 or wider, and the
    products too: in less, many codes would be equally near."""
    z, codebook = wide(z), wide(codebook)
    products = jnp.einsum("...c,kc->...k", z, codebook, precision=jax.lax.Precision.HIGHEST)
    return jnp.argmin(jnp.square(codebook).sum(-1) - 2 * products, axis=-1).astype(jnp.int32)


# A frozen tokenizer of any kind is a module with `cell`, `count`, `ids`, `pictures` and `first_codebook`, and a tree of arrays:
# {"network": its parameters, where it has some; "codebook": where it reads one}.


def first_tree(module: nn.Module, key: jax.Array, images: Images) -> dict:
    """The boxed tree of a tokenizer that learned nothing yet."""
    networking, choosing = jax.random.split(key)
    codebook = module.first_codebook(choosing)
    picture = jnp.zeros((1, module.cell, module.cell, images.channels))
    network = module.init(networking, picture).get("params", {})
    return ({"network": network} if network else {}) | ({} if codebook is None else {"codebook": codebook})


def ids_of(module: nn.Module, tree: dict, pictures: jax.Array) -> jax.Array:
    """int32[B, G, G] of pictures [B, S, S, C] in [0, 1], without gradient."""
    tree = jax.lax.stop_gradient(tree)
    variables = {"params": tree.get("network", {})}
    return module.apply(variables, jax.lax.stop_gradient(pictures), tree.get("codebook"), method="ids")


def pictures_of(module: nn.Module, tree: dict, ids: jax.Array) -> jax.Array:
    """float[B, S, S, C] in [0, 1] of ids int32[B, G, G]."""
    variables = {"params": tree.get("network", {})}
    return jnp.clip(module.apply(variables, ids, tree.get("codebook"), method="pictures"), 0, 1)
