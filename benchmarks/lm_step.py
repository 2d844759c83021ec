"""One training step of a small GPT-2 beside transformers' GPT-2 in torch, on the same CPU cores.

    python benchmarks/lm_step.py [--rounds=7] [--steps=3] [--compiled]

4 layers, width 256, 4 heads, 256 tokens, batch 8, vocabulary 8192, tied head, AdamW, global-norm clip 1: forward, backward and
update. Every side is a process of its own; they step in turns. Everything is measured twice: with glibc's default allocator on
all sides, and with memory kept between steps on all sides. Prints medians of milliseconds, and ratios to torch in the same
dtype and allocator. Needs torch and transformers (`pip install -e ".[parity]"`).
"""

from __future__ import annotations

from side_by_side import DEVICE, main, narrow, prepared_torch, trained, trained_by_torch

LAYERS, WIDTH, HEADS, LENGTH, ROWS, VOCABULARY = 4, 256, 4, 256, 8, 8192


def tokens(rows: int = ROWS, length: int = LENGTH, vocab_size: int = VOCABULARY):
    """int32[B, T + 1], the same on every side."""
    import numpy as np

    return np.random.default_rng(0).integers(2, vocab_size, (rows, length + 1)).astype(np.int32)


def make_step(config, vocab_size: int, length: int, rows: int, dtype: str):
    """A function that takes one step of autoregressive modelling on random tokens and returns the loss on the device."""
    import numpy as np

    from pretrainx.core.vocabulary import Vocabulary
    from pretrainx.models.layers import Precision
    from pretrainx.objectives.autoregressive import AutoregressiveConfig

    vocabulary = Vocabulary(vocab_size, (("pad", 0), ("eos", 1)))
    objective = AutoregressiveConfig().build(config, vocabulary, length, Precision("float32", dtype))
    return trained(objective, {"tokens": tokens(rows, length, vocab_size), "valid": np.ones(rows, bool)}, rows, dtype)


def pretrainx_side(dtype: str):
    from pretrainx.models.decoder import DecoderConfig

    config = DecoderConfig(width=WIDTH, depth=LAYERS, heads=HEADS, unroll=0)
    take = make_step(config, VOCABULARY, LENGTH, ROWS, dtype)
    return lambda: float(take())


def torch_side(dtype: str, compiled: bool = False):
    torch = prepared_torch()
    import transformers

    config = transformers.GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=LENGTH,
        n_embd=WIDTH,
        n_layer=LAYERS,
        n_head=HEADS,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        use_cache=False,
    )
    model = transformers.GPT2LMHeadModel(config)
    rows = torch.from_numpy(tokens()).long().to(DEVICE)
    inputs, targets = rows[:, :-1].contiguous(), rows[:, 1:].contiguous().view(-1)

    def loss_of():
        with narrow(dtype):
            logits = model(input_ids=inputs).logits
        return torch.nn.functional.cross_entropy(logits.float().view(-1, VOCABULARY), targets)

    return trained_by_torch(model, loss_of, compiled)


if __name__ == "__main__":
    sides = {
        "pretrainx": pretrainx_side,
        "torch eager": torch_side,
        "torch compiled": lambda dtype: torch_side(dtype, compiled=True),
    }
    main(__doc__.split("\n")[0], {"gpt2": sides})
