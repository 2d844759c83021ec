"""Residual convolutional networks (He et al. 2016), with the stride in the 3 x 3 convolution of a bottleneck (ResNet 1.5)."""

from __future__ import annotations

from dataclasses import dataclass, field

import jax
from flax import linen as nn

from pretrainx.core.errors import ConfigError
from pretrainx.core.images import Images
from pretrainx.models.batch_norm import BatchNorm
from pretrainx.models.convolution import Convolution, max_pool, mean_pool
from pretrainx.models.layers import Precision
from pretrainx.parallel.rules import constrain

STEMS = ("small", "large")
NORMS = ("batch", "group")


@dataclass(frozen=True)
class ResNetConfig:
    """Sizes and habits of a ResNet. RESNET18 and RESNET50 are the common ones.

    Attributes:
      stages: blocks of each stage; from the second on the first block halves the sides and doubles the channels.
      bottleneck: blocks are 1 x 1, 3 x 3, 1 x 1 with four times the channels at the end; otherwise two 3 x 3.
      width: channels of the first stage.
      stem: "large": 7 x 7 with stride 2 and a max pool, for pictures of 64 pixels and more; "small": 3 x 3 alone (CIFAR).
      zero_residual: the last norm of each block starts with factors 0, so that blocks start as nothing (Goyal et al. 2017).
      norm: "batch" or "group" (Wu & He 2018, which has no statistics of a batch); norm_groups: of "group".
      norm_momentum: how much of the running statistics a step keeps; norm_epsilon: added to variances.
      batch_group: rows that share BatchNorm's statistics in training; 0 is the whole batch, over all devices.
    """

    stages: tuple[int, ...] = (2, 2, 2, 2)
    bottleneck: bool = False
    width: int = field(default=64, metadata={"min": 1})
    stem: str = field(default="small", metadata={"choices": STEMS})
    zero_residual: bool = True
    norm: str = field(default="batch", metadata={"choices": NORMS})
    norm_groups: int = field(default=32, metadata={"min": 1})
    norm_momentum: float = field(default=0.9, metadata={"min": 0, "max": 1})
    norm_epsilon: float = field(default=1e-5, metadata={"above": 0})
    batch_group: int = field(default=0, metadata={"min": 0})

    def __post_init__(self):
        if not self.stages or min(self.stages) < 1:
            raise ConfigError(
                "a stage has no blocks",
                where="config.model.stages",
                why=f"got {self.stages}",
                do="give each stage one block or more, such as (2, 2, 2, 2)",
            )
        if self.norm == "group" and self.width % self.norm_groups:
            raise ConfigError(
                "the groups do not divide the channels",
                where="config.model.norm_groups",
                why=f"{self.width} channels, {self.norm_groups} groups",
                do="choose groups that divide the width",
            )

    def build(self, images: Images, precision: Precision, size: int = 0) -> ResNet:
        """The network; it takes pictures of any size."""
        return ResNet(self, precision)

    @property
    def feature_width(self) -> int:
        return self.width * 2 ** (len(self.stages) - 1) * (4 if self.bottleneck else 1)


RESNET18 = ResNetConfig((2, 2, 2, 2))
RESNET50 = ResNetConfig((3, 4, 6, 3), bottleneck=True)


class ResNet(nn.Module):
    """images float[B, S, S, C], normalised -> features [B, D], the mean over places of the last stage."""

    config: ResNetConfig
    precision: Precision = Precision()

    @property
    def feature_width(self) -> int:
        return self.config.feature_width

    @nn.compact
    def __call__(
        self, images: jax.Array, keys: jax.Array | None = None, valid: jax.Array | None = None, train: bool = False
    ) -> jax.Array:
        """valid: bool[B], rows that count in the statistics of BatchNorm; train: whether those are made of the rows. keys are
        for networks with dropout, which this one has not."""
        config, precision = self.config, self.precision
        large = config.stem == "large"
        x = images.astype(precision.compute)
        x = Convolution(config.width, 7 if large else 3, 2 if large else 1, precision, name="stem")(x)
        x = nn.relu(normed(config, precision, "stem_norm", x, valid, train))
        x = max_pool(x) if large else x
        for stage, count in enumerate(config.stages):
            for index in range(count):
                stride = 2 if stage and not index else 1
                block = ResBlock(
                    config, config.width * 2**stage, stride, precision, name=f"stage_{stage}_block_{index}"
                )
                x = constrain(block(x, valid, train), "batch", None, None, None)
        return mean_pool(x)


class ResBlock(nn.Module):
    """relu(x + branch(x)); where the shape changes x goes through a 1 x 1 convolution and a norm."""

    config: ResNetConfig
    width: int
    stride: int
    precision: Precision

    @nn.compact
    def __call__(self, x: jax.Array, valid: jax.Array | None, train: bool) -> jax.Array:
        config, precision, width = self.config, self.precision, self.width
        # (channels, window, stride) of each convolution
        layers = [(width, 3, self.stride), (width, 3, 1)]
        if config.bottleneck:
            layers = [(width, 1, 1), (width, 3, self.stride), (4 * width, 1, 1)]
        y = x
        for index, (features, window, stride) in enumerate(layers):
            y = Convolution(features, window, stride, precision, name=f"conv_{index}")(y)
            last = index == len(layers) - 1
            y = normed(config, precision, f"norm_{index}", y, valid, train, last and config.zero_residual)
            y = y if last else nn.relu(y)
        if x.shape != y.shape:
            x = Convolution(y.shape[-1], 1, self.stride, precision, name="shortcut")(x)
            x = normed(config, precision, "shortcut_norm", x, valid, train)
        return nn.relu(x + y)


def normed(
    config: ResNetConfig,
    precision: Precision,
    name: str,
    x: jax.Array,
    valid: jax.Array | None,
    train: bool,
    zero: bool = False,
) -> jax.Array:
    """x through the network's kind of norm, under this name of the calling module; zero: its factors start at 0."""
    if config.norm == "batch":
        habits = config.norm_momentum, config.norm_epsilon, True, True, config.batch_group, precision
        return BatchNorm(*habits, zero=zero, name=name)(x, valid, train)
    boxed = lambda start: nn.with_logical_partitioning(start, ("norm",))
    return nn.GroupNorm(
        config.norm_groups,
        epsilon=config.norm_epsilon,
        dtype=precision.compute,
        param_dtype=precision.params,
        scale_init=boxed(nn.initializers.zeros if zero else nn.initializers.ones),
        bias_init=boxed(nn.initializers.zeros),
        use_fast_variance=False,
        name=name,
    )(x)
