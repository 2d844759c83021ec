"""Parameters and floating-point operations, counted from the sizes. The run's MFU uses these functions."""

from __future__ import annotations

from pretrainx.models.decoder import DecoderConfig


def decoder_parameters(config: DecoderConfig, vocab_size: int, max_length: int) -> int:
    """Parameters of the GPT-2 form with tied head: V d + T d + L (4 d^2 + 2 d f + 9 d + f) + 2 d, padding not counted."""
    d, f = config.width, config.mlp_width
    return vocab_size * d + max_length * d + config.depth * (4 * d * d + 2 * d * f + 9 * d + f) + 2 * d


def decoder_flops_per_token(config: DecoderConfig, vocab_size: int, length: int) -> float:
    """Forward and backward FLOPs per training token, matrix products only, causal attention at its average length.

    6 (N_matmul + V d) + 6 L (T + 1) d: lookups are free, the tied head is counted, recomputation is not.
    """
    d = config.width
    matmul = config.depth * (4 * d * d + 2 * d * config.mlp_width)
    return 6.0 * (matmul + vocab_size * d) + 6.0 * config.depth * (length + 1) * d
