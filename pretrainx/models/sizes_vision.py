"""Parameters and floating-point operations of networks that read pictures, counted from the sizes."""

from __future__ import annotations

from collections.abc import Iterator

from pretrainx.core.images import Images
from pretrainx.models.patch_clusters import PatchClusters
from pretrainx.models.resnet import ResNetConfig
from pretrainx.models.sizes import (
    ParameterCounts,
    block_parameters,
    matmul_weights,
    norm_parameters,
    score_flops,
)
from pretrainx.models.visual_tokenizer import VisualTokenizer, VisualTokenizerConfig
from pretrainx.models.vit import VitConfig


def image_counts(config: VitConfig | ResNetConfig, size: int, channels: int = 3, more: int = 0) -> ParameterCounts:
    """Of a network that reads pictures, and of so many parameters beside it, such as heads."""
    if isinstance(config, VitConfig):
        return ParameterCounts(vit_parameters(config, size, channels) + more, config.depth * matmul_weights(config))
    kernels = sum(window**2 * inputs * outputs for window, inputs, outputs, _ in _convolutions(config, channels, 1))
    return ParameterCounts(resnet_parameters(config, channels) + more, kernels)


def mae_counts(encoder: VitConfig, decoder: VitConfig, size: int, channels: int = 3) -> ParameterCounts:
    """Both stacks are hidden weights, although the encoder sees few of the patches."""
    weights = encoder.depth * matmul_weights(encoder) + decoder.depth * matmul_weights(decoder)
    return ParameterCounts(mae_parameters(encoder, decoder, size, channels), weights)


def vit_parameters(config: VitConfig, size: int, channels: int = 3, classes: int = 0) -> int:
    """Parameters for pictures of this side, with a linear head where there are classes; constant positions are none.

    ViT-B/16 at 224 pixels with 1000 classes: 86,567,656; ViT-L/16: 304,326,632.
    """
    d, grid, mark = config.width, config.grid(size), int(config.class_token)
    tables = {
        "learned": (grid**2 + mark) * d,
        "relative": ((2 * grid - 1) ** 2 + 3 * mark) * config.heads,
        "sincos": 0,
        "none": 0,
    }
    count = (
        (config.patch**2 * channels + config.patch_bias) * d + (mark + config.mask_token) * d + tables[config.positions]
    )
    count += config.depth * block_parameters(config) + norm_parameters(config) * (config.norm_first or config.pool_norm)
    count += norm_parameters(config) * config.embedding_norm
    if config.pool == "map":  # a query, its attention with biases, a norm and an MLP
        count += d + 4 * (d + 1) * d + norm_parameters(config) + 2 * d * config.mlp_size + config.mlp_size + d
    return count + (d + 1) * classes


def resnet_parameters(config: ResNetConfig, channels: int = 3, classes: int = 0) -> int:
    """Parameters, with a linear head where there are classes; running statistics are none. ResNet-50 with 1000: 25,557,032."""
    weights = sum(window**2 * inputs * outputs for window, inputs, outputs, _ in _convolutions(config, channels, 1))
    norms = sum(2 * outputs for _, _, outputs, _ in _convolutions(config, channels, 1))
    return weights + norms + (config.feature_width + 1) * classes


def mae_parameters(encoder: VitConfig, decoder: VitConfig, size: int, channels: int = 3, tables: bool = False) -> int:
    """Parameters of a masked autoencoder, with `tables` also the numbers of its two fixed tables, as torch counts them.

    ViT-B/16 with 8 blocks of 512 at 224 pixels: 111,655,680 and with the tables 111,907,840.
    """
    d, pixels = decoder.width, encoder.patch**2 * channels
    own = (encoder.width + 1) * d + d + decoder.depth * block_parameters(decoder) + norm_parameters(decoder)
    fixed = (encoder.grid(size) ** 2 + encoder.class_token) * (d + encoder.width * (encoder.positions == "sincos"))
    return vit_parameters(encoder, size, channels) + own + (d + 1) * pixels + tables * fixed


def beit_parameters(config: VitConfig, size: int, codes: int, channels: int = 3) -> int:
    """Parameters of the encoder and of the head that predicts codes. BEiT-B/16 at 224 pixels with 8192: 91,965,776."""
    return vit_parameters(config, size, channels, codes)


def flops_per_image(config: VitConfig | ResNetConfig, images: Images, size: int = 0) -> float:
    """Forward and backward FLOPs of a picture of this side, in pixels (0: the data's), to its features."""
    size = size or images.size
    if isinstance(config, VitConfig):
        return vit_flops_per_image(config, size, images.channels) + (config.pool == "map") * _map_head(config, size)
    return resnet_flops_per_image(config, size, images.channels)


def vit_flops_per_image(config: VitConfig, size: int, channels: int = 3, visible: int = 0) -> float:
    """Forward and backward FLOPs of the matrix products of a picture, of whose patches the blocks see `visible`; 0 is all."""
    patches = config.grid(size) ** 2
    return 6.0 * config.patch**2 * channels * config.width * patches + _blocks(config, visible or patches)


def mae_flops_per_image(encoder: VitConfig, decoder: VitConfig, size: int, channels: int, visible: int) -> float:
    """Forward and backward FLOPs of the matrix products of a picture of which the encoder sees so many patches."""
    patches, tokens = encoder.grid(size) ** 2, visible + encoder.class_token
    narrow = 6 * encoder.width * decoder.width * tokens
    head = 6 * decoder.width * encoder.patch**2 * channels * patches
    return vit_flops_per_image(encoder, size, channels, visible) + narrow + _blocks(decoder, patches) + head


def beit_flops_per_image(config: VitConfig, size: int, channels: int, codes: int, predicted: int) -> float:
    """Forward and backward FLOPs of the matrix products of a picture, the codes of so many patches predicted; without those of
    the frozen tokenizer, see `ids_flops`."""
    return vit_flops_per_image(config, size, channels) + 6 * config.width * codes * predicted


def tokenizer_flops_per_image(config: VisualTokenizerConfig, size: int, channels: int) -> float:
    """Forward and backward FLOPs of a visual tokenizer: dense layers, convolutions, and its products with the codes:
    of the kind "nearest" the distances to them and their running sums, forward only."""
    cells, scored = config.grid(size) ** 2, config.kind == "logits"
    # Each layer of the way down has a counterpart on the way up, between the same sides; the pixels' has its own outputs.
    weights = _to_codes(config, size, channels) + _between(config, size, channels * (2 if scored else 1))
    weights += config.code_width * config.width * cells  # from the codes
    return float(6 * weights + (6 if scored else 4) * config.codes * config.code_width * cells)


def ids_flops(tokenizer: VisualTokenizer | PatchClusters, size: int) -> float:
    """FLOPs with which a frozen tokenizer makes the ids of a picture of this side: forward only."""
    channels, cells = tokenizer.images.channels, (size // tokenizer.cell) ** 2
    if isinstance(tokenizer, PatchClusters):
        return 2.0 * tokenizer.patch**2 * channels * tokenizer.codes * cells
    config = tokenizer.config
    distances = config.codes * config.code_width * cells * (config.kind == "nearest")
    return 2.0 * (_to_codes(config, size, channels) + distances)


def _to_codes(config: VisualTokenizerConfig, size: int, channels: int) -> int:
    """Multiplications from pixels to the vectors of cells, or to the scores of codes."""
    outputs = config.codes if config.kind == "logits" else config.code_width
    return _between(config, size, channels) + outputs * config.width * config.grid(size) ** 2


def _between(config: VisualTokenizerConfig, size: int, numbers: int) -> int:
    """Multiplications between pixels of so many numbers and the grid of cells, one way."""
    widths = [config.width >> back for back in reversed(range(config.halvings))]
    layers = enumerate(zip([numbers, *widths[:-1]], widths, strict=True))
    halving = sum(4 * fine * coarse * (size >> (number + 1)) ** 2 for number, (fine, coarse) in layers)
    # Nine of a block's window, one of the dense layer behind it.
    return halving + config.blocks * 10 * config.width**2 * config.grid(size) ** 2


def _map_head(config: VitConfig, size: int) -> float:
    """A query that reads all tokens, and the MLP behind it."""
    d, tokens = config.width, config.grid(size) ** 2 + config.class_token
    weights = 2 * d * d * (tokens + 1) + (2 + config.gated) * d * config.mlp_size
    return 6.0 * weights + 12 * d * tokens


def _blocks(config: VitConfig, patches: int) -> float:
    tokens = patches + config.class_token
    return float((6 * config.depth * matmul_weights(config) + score_flops(config, tokens, config.depth)) * tokens)


def resnet_flops_per_image(config: ResNetConfig, size: int, channels: int = 3) -> float:
    """Forward and backward FLOPs of the convolutions. ResNet-50 at 224 pixels: 6 x 4.087 G."""
    each = _convolutions(config, channels, size)
    return 6.0 * sum(window**2 * inputs * outputs * side**2 for window, inputs, outputs, side in each)


def _convolutions(config: ResNetConfig, channels: int, size: int) -> Iterator[tuple[int, int, int, int]]:
    """(window, inputs, outputs, side of the result) of each convolution."""
    halved = lambda side: -(-side // 2)
    large = config.stem == "large"
    side = halved(size) if large else size
    yield 7 if large else 3, channels, config.width, side
    side, inputs = halved(side) if large else side, config.width
    for stage, count in enumerate(config.stages):
        width = config.width * 2**stage
        outputs = width * (4 if config.bottleneck else 1)
        for index in range(count):
            before, side = side, halved(side) if stage and not index else side
            if config.bottleneck:
                yield 1, inputs, width, before
                yield 3, width, width, side
                yield 1, width, outputs, side
            else:
                yield 3, inputs, width, side
                yield 3, width, width, side
            if inputs != outputs or before != side:
                yield 1, inputs, outputs, side
            inputs = outputs
