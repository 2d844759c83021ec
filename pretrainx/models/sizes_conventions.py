"""FLOPs of models of text by the conventions that people count with: forward and backward, per training token.

N is what a token goes through (of experts the chosen ones), N_mm the weights of blocks that multiply it, Q = heads x head width
(mostly d), T tokens a row. Recomputation is in none of them.
"""

from __future__ import annotations

from pretrainx.models.decoder import DecoderConfig
from pretrainx.models.encoder import EncoderConfig
from pretrainx.models.sizes import (
    decoder_counts,
    encoder_counts,
    matmul_weights,
    score_flops,
    visible_keys,
)
from pretrainx.models.stack import StackConfig


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


def decoder_flops(config: DecoderConfig, vocab_size: int, length: int) -> dict[str, float]:
    """The same by all of CONVENTIONS."""
    return {name: decoder_flops_per_token(config, vocab_size, length, name) for name in CONVENTIONS}


def encoder_flops(config: EncoderConfig, vocab_size: int, length: int) -> dict[str, float]:
    """Per token, by the conventions that ask neither for a causal mask nor for a prediction of every token."""
    counts = encoder_counts(config, vocab_size, config.max_length or length)
    return {
        "6n": 6.0 * counts.total,
        "6n_hidden": float(_hidden(config)),
        "palm": 6.0 * (counts.total - counts.looked_up) + score_flops(config, length, config.depth),
        "deepseek": float(deepseek(config, vocab_size, length)),
    }


def six_n(config: DecoderConfig, vocab_size: int, length: int) -> float:
    """6 N, all parameters: C = 6 N D (Hoffmann et al. 2022). Lookups are counted, attention to other tokens is not."""
    counts = decoder_counts(config, vocab_size, config.max_length or length)
    return 6 * (counts.total - counts.idle)


def six_n_hidden(config: DecoderConfig, vocab_size: int, length: int) -> float:
    """6 N_mm: neither vocabulary nor attention."""
    return _hidden(config)


def kaplan(config: DecoderConfig, vocab_size: int, length: int) -> float:
    """6 N_mm + 6 L T Q: three times the forward pass of Kaplan et al. 2020, section 2.1, where causal attention is halved and
    the vocabulary is left out."""
    return _hidden(config) + score_flops(config, length / 2, config.depth)


def six_n_products(config: DecoderConfig, vocab_size: int, length: int) -> float:
    """6 (N_mm + V d): every weight that multiplies, without attention ("standard" of Porian et al. 2024)."""
    return _hidden(config) + 6 * vocab_size * config.width


def porian(config: DecoderConfig, vocab_size: int, length: int) -> float:
    """6 (N_mm + V d) + 6 L T Q: the head counted and causal attention halved ("attention" of Porian et al. 2024, appendix)."""
    return six_n_products(config, vocab_size, length) + score_flops(config, length / 2, config.depth)


def palm(config: DecoderConfig, vocab_size: int, length: int) -> float:
    """6 N' + 12 L Q T: N' without position table and untied input embedding, every key counted (Chowdhery et al. 2022,
    appendix B; nanoGPT, Megatron, torchtitan)."""
    return 6 * _with_head(config, vocab_size, length) + score_flops(config, length, config.depth)


def matmul_full(config: DecoderConfig, vocab_size: int, length: int) -> float:
    """6 (N_mm + V d) + 12 L T Q: all matrix products, of attention those too that the causal mask hides."""
    return six_n_products(config, vocab_size, length) + score_flops(config, length, config.depth)


def matmul_causal(config: DecoderConfig, vocab_size: int, length: int) -> float:
    """6 (N_mm + V d) + 6 L (T + 1) Q: all matrix products whose result is used; with a window fewer keys. What MFU is of."""
    keys = visible_keys(length, config.window)
    return six_n_products(config, vocab_size, length) + score_flops(config, keys, config.depth)


def levanter(config: DecoderConfig, vocab_size: int, length: int) -> float:
    """As `matmul_full`, and three operations a score for the softmax: 3 (2 N_mm + L (4 T Q + 3 H T) + 2 V d) (Levanter's
    lm_flops_per_token, times 3)."""
    return matmul_full(config, vocab_size, length) + 9 * config.depth * config.heads * length


def hoffmann(config: DecoderConfig, vocab_size: int, length: int) -> float:
    """Appendix F of Hoffmann et al. 2022: as `levanter`, and the input embedding as if it were a product, 2 V d forward."""
    return levanter(config, vocab_size, length) + 6 * vocab_size * config.width


def hoffmann_blocks(config: DecoderConfig, vocab_size: int, length: int) -> float:
    """The same without embedding and logits, which is what the ratios to 6 N D in table A4 there were made with."""
    return levanter(config, vocab_size, length) - 6 * vocab_size * config.width


def olmo(config: DecoderConfig, vocab_size: int, length: int) -> float:
    """6 N' + 12 L d T + 4 V d: N' has the head and not the input embedding, and the head is counted in part once more
    (OLMo-ladder, configs/final.json)."""
    attention = 12 * config.depth * config.width * length
    return 6 * _with_head(config, vocab_size, length) + attention + 4 * vocab_size * config.width


def deepseek(config: StackConfig, vocab_size: int, length: int) -> float:
    """72 L d^2 + 12 L d T: no vocabulary, 12 d^2 a layer (Bi et al. 2024, section 3)."""
    return 72 * config.depth * config.width**2 + 12 * config.depth * config.width * length


def nanochat(config: DecoderConfig, vocab_size: int, length: int) -> float:
    """6 (N_mm + V d) + 12 L Q min(window, T): as `matmul_full`, but no layer reads further than its window (nanochat's
    estimate_flops)."""
    keys = min(config.window or length, length)
    return six_n_products(config, vocab_size, length) + score_flops(config, keys, config.depth)


def gemstones(config: DecoderConfig, vocab_size: int, length: int) -> float:
    """The counter of McLeish et al. 2025 (gemstone-scaling-laws, flops_per_token_gqa): products, and what lies between them.

    Forward, a token: of a block the products; 3.5 for each number that is turned by its position; of attention 1 (query-key,
    halved for causality) and 2 (values, not halved) a score and head dimension and 3 a score for the softmax; 10 for each
    activation, 2 for each number of the residual stream, 7 for each that is normalised (two norms in a block, one at the end);
    the head. The backward pass is twice that, of scores 2.5 times (flash attention).
    """
    size, width, depth = config.head_size, config.width, config.depth
    scores = length * config.heads * (3 * size + 3)
    turned = 3.5 * (config.heads + config.shared_heads) * size * (config.positions == "rotary")
    between = turned + 10 * config.mlp_size + 2 * width + 2 * 7 * width
    plain = depth * (2 * matmul_weights(config) + between) + 7 * width + 2 * vocab_size * width
    return 3 * plain + 3.5 * depth * scores


def _hidden(config: StackConfig) -> float:
    return 6 * config.depth * matmul_weights(config)


def _with_head(config: DecoderConfig, vocab_size: int, length: int) -> int:
    counts = decoder_counts(config, vocab_size, config.max_length or length)
    return counts.total - counts.idle - counts.looked_up


CONVENTIONS = {
    "6n": six_n,
    "6n_hidden": six_n_hidden,
    "kaplan": kaplan,
    "6n_products": six_n_products,
    "porian": porian,
    "palm": palm,
    "matmul_full": matmul_full,
    "matmul_causal": matmul_causal,
    "levanter": levanter,
    "hoffmann": hoffmann,
    "hoffmann_blocks": hoffmann_blocks,
    "olmo": olmo,
    "deepseek": deepseek,
    "nanochat": nanochat,
    "gemstones": gemstones,
}
