"""Parameters and floating-point operations of models of text, counted from the sizes. The run's MFU uses these functions.

The FLOPs here are those of matrix products, forward and backward: 6 a weight and unit that it multiplies, 12 a score; what a
causal mask hides is left out, and so is recomputation. sizes_conventions.py has what other people count.
"""

from __future__ import annotations

from dataclasses import dataclass

from pretrainx.models.decoder import DecoderConfig
from pretrainx.models.encoder import EncoderConfig
from pretrainx.models.encoder_decoder import EncoderDecoderConfig
from pretrainx.models.stack import StackConfig


@dataclass(frozen=True)
class ParameterCounts:
    """Parameters by what they do, the padding of vocabulary tables not counted.

    Attributes:
      total: all of them.
      hidden: weights that multiply each unit on its way through the network: N_mm. Of experts the chosen ones, of convolutions
        the kernels.
      looked_up: tables of words, positions and types from which rows are only taken: they multiply nothing.
      head: of the vocabulary at the output, with its bias; where it is tied to the table, the one matrix counts here.
      idle: of experts those that a token does not go through.
    """

    total: int
    hidden: int
    looked_up: int = 0
    head: int = 0
    idle: int = 0

    def named(self) -> dict[str, int]:
        """By the names of conventions; those that mean nothing for a model without words are left out.

        "total"; "with_head", without what is only looked up (OLMo's and PaLM's N); "without_vocabulary", without the head too
        (Kaplan's and Pythia's "non-embedding"); "hidden", N_mm; "active", without idle experts.
        """
        found = {"total": self.total, "hidden": self.hidden, "active": self.total - self.idle}
        if self.head:
            found["with_head"] = self.total - self.looked_up
        if self.head or self.looked_up:
            found["without_vocabulary"] = self.total - self.looked_up - self.head
        return found


def decoder_counts(config: DecoderConfig, vocab_size: int, max_length: int) -> ParameterCounts:
    table, positions = vocab_size * config.width, max_length * config.width * (config.positions == "learned")
    return ParameterCounts(
        decoder_parameters(config, vocab_size, max_length),
        config.depth * matmul_weights(config),
        positions + table * (not config.tied),
        table,
        config.depth * _idle_weights(config),
    )


def encoder_counts(config: EncoderConfig, vocab_size: int, max_length: int) -> ParameterCounts:
    """Without a head the table of words is only looked up."""
    d, bare = config.width, config.head == "none"
    positions = (max_length + config.position_offset) * d * (config.positions == "learned")
    table = vocab_size * d
    return ParameterCounts(
        encoder_parameters(config, vocab_size, max_length),
        config.depth * matmul_weights(config),
        positions + config.types * d + table * (bare or not config.tied),
        0 if bare else table + vocab_size,
    )


def encoder_decoder_counts(config: EncoderDecoderConfig, vocab_size: int, max_length: int) -> ParameterCounts:
    d, target = config.width, config.target_depth
    positions = 2 * (max_length + config.position_offset) * d * (config.positions == "learned")
    weights = (config.depth + target) * matmul_weights(config) + target * _attention_weights(config)
    return ParameterCounts(
        encoder_decoder_parameters(config, vocab_size, max_length),
        weights,
        positions + vocab_size * d * (not config.tied),
        vocab_size * d,
    )


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
    count += norm * (config.embedding_norm + config.norm_first) + config.pooler * square
    if config.head == "none":
        return count
    count += config.pooler * (2 * d + 2)  # two classes of what it gives
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
    config: EncoderDecoderConfig, vocab_size: int, source_length: int, target_length: int, masked: bool = False
) -> float:
    """Forward and backward FLOPs of the matrix products of a source of S tokens and a target of T; masked: those of scores that
    the causal mask hides are counted too."""
    depth, keys = config.target_depth, config.shared_heads * config.head_size
    encoder = 6 * config.depth * matmul_weights(config) + score_flops(config, source_length, config.depth)
    reading = 6 * depth * 2 * config.width * keys  # keys and values that the decoder makes of the source
    crossing = 6 * depth * 2 * config.width * config.heads * config.head_size
    decoder = 6 * depth * matmul_weights(config) + crossing + 6 * vocab_size * config.width
    own = target_length if masked else visible_keys(target_length)
    decoder += score_flops(config, own + source_length, depth)
    return float((encoder + reading) * source_length + decoder * target_length)


def prefixed_decoder_flops_per_row(
    config: DecoderConfig, vocab_size: int, source_length: int, target_length: int, masked: bool = False
) -> float:
    """The same of a decoder that reads the source as its prefix: every token of the source sees all of it, and nothing else."""
    row = source_length + target_length
    blocks = 6 * config.depth * matmul_weights(config) * row
    source = score_flops(config, row if masked else source_length, config.depth) * source_length
    own = target_length if masked else visible_keys(target_length)
    target = score_flops(config, own + source_length, config.depth) * target_length
    return float(blocks + source + target + 6 * vocab_size * config.width * target_length)


def visible_keys(length: int, window: int = 0) -> float:
    """Keys that a query sees on average over a row: (T + 1) / 2, fewer with a window."""
    window = min(window or length, length)
    return (window * (window + 1) / 2 + (length - window) * window) / length


def score_flops(config: StackConfig, keys: float, depth: int) -> float:
    """Query-key and probability-value products of a token with so many keys: 12 L Q S, Q = heads x head width."""
    return 12 * depth * config.heads * config.head_size * keys
