"""Parameters and floating-point operations, counted from the sizes. The run's MFU uses these functions."""

from __future__ import annotations

from pretrainx.models.decoder import DecoderConfig
from pretrainx.models.encoder import EncoderConfig
from pretrainx.models.encoder_decoder import EncoderDecoderConfig
from pretrainx.models.stack import StackConfig


def decoder_parameters(config: DecoderConfig, vocab_size: int, max_length: int) -> int:
    """Parameters, the vocabulary's padding not counted.

    GPT-2's form: V d + T d + L (4 d^2 + 2 d f + 9 d + f) + 2 d; LLaMA's: 2 V d + L (2 d H h + 2 d K h + 3 d f + 2 d) + d;
    Mixtral's has E MLPs and a router d E in each block.
    """
    d = config.width
    positions = max_length * d if config.positions == "learned" else 0
    tables = vocab_size * d * (1 if config.tied else 2)
    return tables + positions + config.depth * block_parameters(config) + norm_parameters(config)


def active_parameters(config: DecoderConfig, vocab_size: int, max_length: int) -> int:
    """Those that a token goes through: of a mixture of experts the chosen ones."""
    return decoder_parameters(config, vocab_size, max_length) - config.depth * _idle_weights(config)


def encoder_parameters(config: EncoderConfig, vocab_size: int, max_length: int) -> int:
    """Parameters, the vocabulary's padding not counted. BERT base: 109,514,298, with pooler and two classes 110,106,428."""
    d, norm, square = config.width, norm_parameters(config), config.width**2 + config.width
    positions = {"learned": (max_length + config.position_offset) * d, "rotary": 0, "sinusoidal": 1}[config.positions]
    count = (vocab_size + config.types) * d + positions + config.depth * block_parameters(config)
    count += norm * (config.embedding_norm + config.norm_first) + config.pooler * (square + 2 * d + 2)
    if config.head == "none":
        return count
    return count + (config.head == "transform") * (square + norm) + vocab_size * (1 if config.tied else 1 + d)


def encoder_decoder_parameters(config: EncoderDecoderConfig, vocab_size: int, max_length: int) -> int:
    """Parameters, the vocabulary's padding not counted. T5 base: 222,903,552; BART base: 139,420,416."""
    d, norm = config.width, norm_parameters(config)
    side = (config.embedding_norm + config.norm_first) * norm
    side += (max_length + config.position_offset) * d if config.positions == "learned" else 0
    side += config.buckets * config.heads if config.positions == "relative" else 0
    tables = vocab_size * d * (1 if config.tied else 2)
    return (
        tables
        + 2 * side
        + config.depth * block_parameters(config)
        + config.target_depth * block_parameters(config, cross=True)
    )


def norm_parameters(config: StackConfig) -> int:
    return (2 if config.norm == "layer" else 1) * config.width


def block_parameters(config: StackConfig, cross: bool = False) -> int:
    """Parameters of a block, with a cross-attention or without."""
    query, shared = config.heads * config.head_size, config.shared_heads * config.head_size
    attention = query + 2 * shared + config.width
    mlp = config.mlp_size * (1 + config.gated) + config.width if not config.experts.count else 0  # experts have none
    biases = attention * (1 + cross) + mlp if config.bias else 0
    biases -= shared if config.bias and not config.key_bias else 0
    vectors = (2 + cross) * (norm_parameters(config) + config.width * bool(config.layer_scale))
    return matmul_weights(config) + _idle_weights(config) + cross * _attention_weights(config) + biases + vectors


def _attention_weights(config: StackConfig) -> int:
    return 2 * config.width * (config.heads + config.shared_heads) * config.head_size


def matmul_weights(config: StackConfig) -> int:
    """Weights of a block that multiply a token: N_mm / L. Of a mixture of experts these are the router and the chosen experts,
    each of them once: places that stay empty are not counted, and tokens that are dropped are."""
    experts = config.experts
    mlps = (
        experts.chosen * _mlp_weights(config) + config.width * experts.count if experts.count else _mlp_weights(config)
    )
    return _attention_weights(config) + mlps


def _mlp_weights(config: StackConfig) -> int:
    return (2 + config.gated) * config.width * config.mlp_size


def _idle_weights(config: StackConfig) -> int:
    """Of a block's experts those that a token does not go through."""
    return max(config.experts.count - config.experts.chosen, 0) * _mlp_weights(config)


def encoder_flops_per_row(config: EncoderConfig, vocab_size: int, length: int, predicted: int) -> float:
    """Forward and backward FLOPs of the matrix products of a row of T tokens, of which the head reads `predicted`."""
    head = config.width * (vocab_size + config.width * (config.head == "transform"))
    hidden = 6 * config.depth * matmul_weights(config) * length
    return float(hidden + score_flops(config, length, config.depth) * length + 6 * head * predicted)


def encoder_decoder_flops_per_row(
    config: EncoderDecoderConfig, vocab_size: int, source_length: int, target_length: int
) -> float:
    """Forward and backward FLOPs of the matrix products of a source of S tokens and a target of T."""
    depth, keys = config.target_depth, config.shared_heads * config.head_size
    encoder = 6 * config.depth * matmul_weights(config) + score_flops(config, source_length, config.depth)
    reading = 6 * depth * 2 * config.width * keys  # keys and values that the decoder makes of the source
    crossing = 6 * depth * 2 * config.width * config.heads * config.head_size
    decoder = 6 * depth * matmul_weights(config) + crossing + 6 * vocab_size * config.width
    decoder += score_flops(config, visible_keys(target_length) + source_length, depth)
    return float((encoder + reading) * source_length + decoder * target_length)


def prefixed_decoder_flops_per_row(
    config: DecoderConfig, vocab_size: int, source_length: int, target_length: int
) -> float:
    """The same of a decoder that reads the source as its prefix: every token of the source sees all of it."""
    blocks = 6 * config.depth * matmul_weights(config) * (source_length + target_length)
    source = score_flops(config, source_length, config.depth) * source_length
    target = score_flops(config, visible_keys(target_length) + source_length, config.depth) * target_length
    return float(blocks + source + target + 6 * vocab_size * config.width * target_length)


def decoder_flops_per_token(
    config: DecoderConfig, vocab_size: int, length: int, convention: str = "matmul_causal"
) -> float:
    """Forward and backward FLOPs per training token in rows of T, by one of CONVENTIONS; recomputation is not counted.

    The default counts matrix products only, each query at its average number of visible keys: lookups are free, the head is
    counted, tied or not. ValueError for an unknown convention.
    """
    if convention not in CONVENTIONS:
        raise ValueError(f"unknown convention {convention!r}; known: {', '.join(CONVENTIONS)}")
    return float(CONVENTIONS[convention](config, vocab_size, length))


def visible_keys(length: int, window: int = 0) -> float:
    """Keys that a query sees on average over a row: (T + 1) / 2, fewer with a window."""
    window = min(window or length, length)
    return (window * (window + 1) / 2 + (length - window) * window) / length


def _all(config: DecoderConfig, vocab_size: int, length: int) -> float:
    return 6 * active_parameters(config, vocab_size, length)


def _hidden(config: DecoderConfig, vocab_size: int, length: int) -> float:
    return 6 * config.depth * matmul_weights(config)


def _products(config: DecoderConfig, vocab_size: int, length: int) -> float:
    return _hidden(config, vocab_size, length) + 6 * vocab_size * config.width


def score_flops(config: StackConfig, keys: float, depth: int) -> float:
    """Query-key and probability-value products of a token with so many keys: 12 L Q S, Q = heads x head width."""
    return 12 * depth * config.heads * config.head_size * keys


def _palm(config: DecoderConfig, vocab_size: int, length: int) -> float:
    """6 N' + 12 L Q T: N' without position table and untied input embedding (Chowdhery et al. 2022, app. B; nanoGPT)."""
    lookups = length * config.width * (config.positions == "learned") + vocab_size * config.width * (not config.tied)
    return 6 * (active_parameters(config, vocab_size, length) - lookups) + score_flops(config, length, config.depth)


def _levanter(config: DecoderConfig, vocab_size: int, length: int) -> float:
    """As `matmul_full`, and three operations a score for the softmax."""
    return (
        _products(config, vocab_size, length)
        + score_flops(config, length, config.depth)
        + 9 * config.depth * config.heads * length
    )


def _deepseek(config: DecoderConfig, vocab_size: int, length: int) -> float:
    """72 L d^2 + 12 L d T: no vocabulary, 12 d^2 a layer (Bi et al. 2024, section 3)."""
    return 72 * config.depth * config.width**2 + 12 * config.depth * config.width * length


CONVENTIONS = {
    "6n": _all,  # Hoffmann et al. 2022: C = 6 N D
    "6n_hidden": _hidden,
    # Kaplan et al. 2020, section 2.1, times 3
    "kaplan": lambda c, v, t: _hidden(c, v, t) + score_flops(c, t / 2, c.depth),
    "6n_products": _products,
    "palm": _palm,
    "matmul_full": lambda c, v, t: _products(c, v, t) + score_flops(c, t, c.depth),
    "matmul_causal": lambda c, v, t: _products(c, v, t) + score_flops(c, visible_keys(t, c.window), c.depth),
    "levanter": _levanter,
    "deepseek": _deepseek,
}
