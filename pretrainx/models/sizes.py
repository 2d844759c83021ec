"""Parameters and floating-point operations, counted from the sizes. The run's MFU uses these functions."""

from __future__ import annotations

from pretrainx.models.decoder import DecoderConfig


def decoder_parameters(config: DecoderConfig, vocab_size: int, max_length: int) -> int:
    """Parameters, the vocabulary's padding not counted.

    GPT-2's form: V d + T d + L (4 d^2 + 2 d f + 9 d + f) + 2 d; LLaMA's: 2 V d + L (2 d H h + 2 d K h + 3 d f + 2 d) + d.
    """
    d, f, query = config.width, config.mlp_size, config.heads * config.head_size
    norm = 2 * d if config.norm == "layer" else d
    shared = config.shared_heads * config.head_size
    biases = (query + 2 * shared + d) + (f * (1 + config.gated) + d) if config.bias else 0
    positions = max_length * d if config.positions == "learned" else 0
    tables = vocab_size * d * (1 if config.tied else 2)
    return tables + positions + config.depth * (_matmul_weights(config) + biases + 2 * norm) + norm


def _matmul_weights(config: DecoderConfig) -> int:
    """Weights of a block that multiply: N_mm / L."""
    attention = 2 * config.width * (config.heads + config.shared_heads) * config.head_size
    return attention + (2 + config.gated) * config.width * config.mlp_size


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
    return 6 * decoder_parameters(config, vocab_size, length)


def _hidden(config: DecoderConfig, vocab_size: int, length: int) -> float:
    return 6 * config.depth * _matmul_weights(config)


def _products(config: DecoderConfig, vocab_size: int, length: int) -> float:
    return _hidden(config, vocab_size, length) + 6 * vocab_size * config.width


def _scores(config: DecoderConfig, keys: float) -> float:
    """Query-key and probability-value products of a token with so many keys: 12 L Q S, Q = heads x head width."""
    return 12 * config.depth * config.heads * config.head_size * keys


def _palm(config: DecoderConfig, vocab_size: int, length: int) -> float:
    """6 N' + 12 L Q T: N' without position table and untied input embedding (Chowdhery et al. 2022, app. B; nanoGPT)."""
    lookups = length * config.width * (config.positions == "learned") + vocab_size * config.width * (not config.tied)
    return 6 * (decoder_parameters(config, vocab_size, length) - lookups) + _scores(config, length)


def _levanter(config: DecoderConfig, vocab_size: int, length: int) -> float:
    """As `matmul_full`, and three operations a score for the softmax."""
    return _products(config, vocab_size, length) + _scores(config, length) + 9 * config.depth * config.heads * length


def _deepseek(config: DecoderConfig, vocab_size: int, length: int) -> float:
    """72 L d^2 + 12 L d T: no vocabulary, 12 d^2 a layer (Bi et al. 2024, section 3)."""
    return 72 * config.depth * config.width**2 + 12 * config.depth * config.width * length


CONVENTIONS = {
    "6n": _all,  # Hoffmann et al. 2022: C = 6 N D
    "6n_hidden": _hidden,
    "kaplan": lambda c, v, t: _hidden(c, v, t) + _scores(c, t / 2),  # Kaplan et al. 2020, section 2.1, times 3
    "6n_products": _products,
    "palm": _palm,
    "matmul_full": lambda c, v, t: _products(c, v, t) + _scores(c, t),
    "matmul_causal": lambda c, v, t: _products(c, v, t) + _scores(c, visible_keys(t, c.window)),
    "levanter": _levanter,
    "deepseek": _deepseek,
}
