"""Parameters and floating-point operations of models of pictures and captions, counted from the sizes."""

from __future__ import annotations

from pretrainx.core.images import Images
from pretrainx.models.coca import Coca, CocaConfig
from pretrainx.models.dual_encoder import DualEncoder, DualEncoderConfig
from pretrainx.models.resnet import ResNetConfig
from pretrainx.models.sizes import (
    ParameterCounts,
    block_parameters,
    matmul_weights,
    norm_parameters,
    score_flops,
    visible_keys,
)
from pretrainx.models.sizes_vision import flops_per_image, image_counts, vit_parameters
from pretrainx.models.text_tower import TextTowerConfig


def pair_counts(model: DualEncoder | Coca, vocab_size: int, size: int, channels: int = 3) -> ParameterCounts:
    """Of both towers, and of what CoCa has beside them. Only CoCa predicts words; the other's table is looked up."""
    text, length, biased = model.text.config, model.text.length, model.offset is not None
    looked_up = (vocab_size + length + (text.pool == "class")) * text.width
    hidden = image_counts(model.image.config, size, channels).hidden + text.depth * matmul_weights(text)
    if isinstance(model, Coca):
        crossing = 2 * text.width * (text.heads + text.shared_heads) * text.head_size
        inner = text.inner_mlp * (2 + text.gated) * text.width * text.mlp_size
        hidden += model.decoder_depth * (matmul_weights(text) + crossing + inner)
        total = coca_parameters(model.config, vocab_size, length, size, biased, channels)
        return ParameterCounts(total, hidden, looked_up, text.width * vocab_size)
    config = DualEncoderConfig(model.image.config, text, model.embedding, model.projection)
    total = dual_encoder_parameters(config, vocab_size, length, size, biased, channels)
    return ParameterCounts(total, hidden, looked_up)


def text_tower_parameters(config: TextTowerConfig, vocab_size: int, length: int) -> int:
    """Parameters, the vocabulary's padding not counted."""
    d, mark = config.width, config.pool == "class"
    tables = (vocab_size + length + mark) * d + mark * d
    return tables + config.depth * block_parameters(config) + norm_parameters(config)


def dual_encoder_parameters(
    config: DualEncoderConfig, vocab_size: int, length: int, size: int, offset: bool = False, channels: int = 3
) -> int:
    """Parameters for pictures of this side, with scale and, where it is, offset. CLIP ViT-B/32 at 224 pixels with 77 tokens of
    49,408: 151,277,313; SigLIP B/16 with 64 tokens of 32,000: 203,155,970."""
    image, both = config.image, config.projection == "both"
    is_resnet = isinstance(image, ResNetConfig)
    towers = image_counts(image, size, channels).total
    width = image.feature_width if is_resnet else image.width
    spaces = both * width * config.embedding + (config.text.width + (not both)) * config.embedding
    return towers + text_tower_parameters(config.text, vocab_size, length) + spaces + 1 + offset


def coca_parameters(
    config: CocaConfig, vocab_size: int, length: int, size: int, offset: bool = False, channels: int = 3
) -> int:
    """The same of CoCa. open_clip's ViT-B-32 with 76 tokens of 49,408: 253,560,065."""
    image, text = config.tower, config.text
    d, norm, depth = text.width, norm_parameters(text), text.decoder_depth or text.depth
    # The poolers read the tower's blocks: its own norm at the end is not there.
    towers = vit_parameters(image, size, channels) - norm_parameters(image) * image.norm_first
    towers += text_tower_parameters(text, vocab_size, length)
    pooler = 2 * (d * d + d) + 2 * (image.width * d + d) + 2 * d + 2 * image.width
    poolers = pooler + config.queries * d
    if config.pooler != "shared":  # the one that reads the other's tokens reads a sequence of its own width
        reads = d if config.pooler == "cascade" else image.width
        poolers += 2 * (d * d + d) + 2 * (reads * d + d) + 2 * d + 2 * reads + d
    block = block_parameters(text, cross=True)
    if text.inner_mlp:
        block += mlp_parameters(text) + 2 * norm
    return towers + poolers + 2 * norm + depth * block + d * vocab_size + 2 * d * config.embedding + 1 + offset


def mlp_parameters(config: TextTowerConfig) -> int:
    weights = (2 + config.gated) * config.width * config.mlp_size
    return weights + (config.mlp_size * (1 + config.gated) + config.width if config.bias else 0)


def flops_per_pair(model: DualEncoder | Coca, images: Images, size: int, length: int) -> float:
    """Forward and backward FLOPs of the matrix products of a picture and a caption; the batch's products with itself, a few
    thousandths of them, are not counted."""
    config = model.config if isinstance(model, Coca) else model
    image, text = model.image.config, model.text.config
    tokens = length + (text.pool == "class")
    keys = visible_keys(tokens) if text.causal else tokens
    tower = (6 * text.depth * matmul_weights(text) + score_flops(text, keys, text.depth)) * tokens
    spaces = (model.projection == "both") * model.image.feature_width if isinstance(model, DualEncoder) else text.width
    total = flops_per_image(image, images, size) + tower + 6 * config.embedding * (text.width + spaces)
    return float(total + (_decoder(model, size, length) if isinstance(model, Coca) else 0))


def _decoder(model: Coca, size: int, length: int) -> float:
    """Poolers, multimodal blocks and the head of CoCa."""
    config, image, text = model.config, model.config.image, model.config.text
    d, depth, queries = text.width, model.decoder_depth, config.queries
    patches = image.grid(size) ** 2 + image.class_token
    pool = lambda reads, width, asks: 6 * (2 * width * d * reads + 2 * d * d * asks) + 12 * d * reads * asks
    poolers = pool(patches, image.width, queries)
    if config.pooler != "shared":
        poolers += pool(queries, d, 1) if config.pooler == "cascade" else pool(patches, image.width, 1)
    memory = queries - (config.pooler == "shared")
    mlp = text.inner_mlp * (2 + text.gated) * d * text.mlp_size
    blocks = 6 * depth * (matmul_weights(text) + 2 * d * d + mlp) * length + 6 * depth * 2 * d * d * memory
    scores = score_flops(text, visible_keys(length) + memory, depth) * length
    return poolers + blocks + scores + 6 * d * model.text.vocab_size * (length - 1)
