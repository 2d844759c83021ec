"""Parameters and floating-point operations, counted from the sizes. The run's MFU uses these functions."""

from __future__ import annotations

from pretrainx.models.decoder import DecoderConfig


def decoder_parameters(config: DecoderConfig, vocab_size: int, max_length: int) -> int:
    """Parameters with a tied head, the vocabulary's padding not counted.

    GPT-2's form: V d + T d + L (4 d^2 + 2 d f + 9 d + f) + 2 d; fewer without biases, with RMS norms, with rotary positions.
    """
    d, f = config.width, config.mlp_width
    norm = 2 * d if config.norm == "layer" else d
    biases = 5 * d + f if config.bias else 0
    positions = max_length * d if config.positions == "learned" else 0
    return vocab_size * d + positions + config.depth * (4 * d * d + 2 * d * f + biases + 2 * norm) + norm


def decoder_flops_per_token(config: DecoderConfig, vocab_size: int, length: int) -> float:
    """Forward and backward FLOPs per training token, matrix products only, causal attention at its average length.

    6 (N_matmul + V d) + 6 L (T + 1) d: lookups are free, the tied head is counted, recomputation is not.
    """
    d = config.width
    matmul = config.depth * (4 * d * d + 2 * d * config.mlp_width)
    return 6.0 * (matmul + vocab_size * d) + 6.0 * config.depth * (length + 1) * d
