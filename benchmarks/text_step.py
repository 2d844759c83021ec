"""One training step of BERT, T5 and BART beside transformers' in torch, on the same CPU cores.

    python benchmarks/text_step.py [--rounds=5] [--steps=2] [--cases=bert,bert-dense,t5,bart]

BERT: 4 layers, 128 tokens, batch 16, 15 % of them recovered. T5 1.0: 4 + 4 layers, 256 tokens of source, batch 8. BART: 3 + 3
layers, 128 tokens, batch 16. Width 256, 4 heads, the families' own vocabularies, AdamW, global-norm clip 1, no dropout. Ours is
the whole train step, the drawing of masks and noise on the device too; torch is given masked tokens and labels of the same
shapes. transformers computes BERT's logits at every position; `bert-dense` is ours doing so too, `bert` reads the selected
ones only, which is the same loss. Every side is a process of its own; they step in turns, with glibc's default allocator and
with memory kept between steps on all sides. Needs torch and transformers (`pip install -e ".[parity]"`).
"""

from __future__ import annotations

import functools

from side_by_side import DEVICE, main, narrow, prepared_torch, trained, trained_by_torch

WIDTH, HEADS = 256, 4
BERT = dict(rows=16, length=128, vocab=30522)
T5 = dict(rows=8, length=256, vocab=32128, source=256)
BART = dict(rows=16, length=128, vocab=50265)


def batch_of(objective, rows: int, vocab: int):
    """A batch by the objective's own spec: random tokens, every row full."""
    import jax.numpy as jnp
    import numpy as np

    rng = np.random.default_rng(0)
    spec = objective.batch_spec(rows)
    fill = {
        jnp.int32: lambda name, shape: rng.integers(200, vocab - 200, shape),
        jnp.bool_: lambda name, shape: np.ones(shape) if name == "valid" else rng.random(shape) < 0.3,
    }
    batch = {name: fill[leaf.dtype.type](name, leaf.shape).astype(leaf.dtype) for name, leaf in spec.items()}
    if "length" in batch:
        batch["length"] = np.full(rows, spec["tokens"].shape[1], np.int32)
    return batch


def ours(config, objective, sizes: dict, dtype: str):
    """A function that takes one step and returns its loss."""
    from pretrainx.core.vocabulary import Vocabulary
    from pretrainx.models.layers import Precision

    names = ("pad", "eos", "bos", "mask", "cls", "sep")
    sentinels = tuple(sizes["vocab"] - 1 - i for i in range(100))
    vocabulary = Vocabulary(sizes["vocab"], tuple((name, i) for i, name in enumerate(names)), sentinels=sentinels)
    made = objective.build(config, vocabulary, sizes["length"], Precision("float32", dtype))
    take = trained(made, batch_of(made, sizes["rows"], sizes["vocab"]), sizes["rows"], dtype)
    return lambda: float(take())


def our_bert(dtype: str, gather: bool):
    from pretrainx.models.encoder import EncoderConfig
    from pretrainx.objectives.masked_lm import MaskedLmConfig

    config = EncoderConfig(width=WIDTH, depth=4, heads=HEADS, types=2, unroll=0)
    return ours(config, MaskedLmConfig(selection="exact", gather=gather), BERT, dtype)


def our_t5(dtype: str):
    from pretrainx.models.encoder_decoder import EncoderDecoderConfig
    from pretrainx.objectives.span_corruption import SpanCorruptionConfig

    habits = dict(
        positions="relative", norm_first=True, norm="rms", norm_epsilon=1e-6, embedding_norm=False, bias=False
    )
    t5 = dict(activation="relu", scaled_attention=False, scaled_logits=True, initial="fan_in", unroll=0)
    return ours(EncoderDecoderConfig(WIDTH, 4, HEADS, **habits, **t5), SpanCorruptionConfig(), T5, dtype)


def our_bart(dtype: str):
    from pretrainx.models.encoder_decoder import EncoderDecoderConfig
    from pretrainx.objectives.denoising import DenoisingConfig

    return ours(EncoderDecoderConfig(WIDTH, 3, HEADS, position_offset=2, unroll=0), DenoisingConfig(), BART, dtype)


def torch_side(dtype: str, name: str, compiled: bool = False):
    torch = prepared_torch()
    import transformers

    sizes = {"bert": BERT, "t5": T5, "bart": BART}[name]
    rows, length, vocab = sizes["rows"], sizes["length"], sizes["vocab"]
    draw = lambda width: torch.randint(200, vocab - 200, (rows, width))
    if name == "bert":
        dropouts = dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
        layers = dict(hidden_size=WIDTH, num_hidden_layers=4, num_attention_heads=HEADS, intermediate_size=4 * WIDTH)
        model = transformers.BertForMaskedLM(
            transformers.BertConfig(max_position_embeddings=length, **layers, **dropouts)
        )
        labels = torch.where(torch.rand(rows, length) < 0.15, draw(length), -100)
        inputs = dict(input_ids=draw(length), labels=labels)
    elif name == "t5":
        from pretrainx.objectives.spans import lengths_of, raw_length

        config = transformers.T5Config(
            vocab_size=vocab,
            d_model=WIDTH,
            d_kv=WIDTH // HEADS,
            d_ff=4 * WIDTH,
            num_layers=4,
            num_heads=HEADS,
            dropout_rate=0.0,
            decoder_start_token_id=0,
            use_cache=False,
        )
        model = transformers.T5ForConditionalGeneration(config)
        inputs = dict(input_ids=draw(length), labels=draw(lengths_of(raw_length(length, 0.15, 3.0), 0.15, 3.0).target))
    else:
        sides = {f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in BART_SIDE.items()}
        config = transformers.BartConfig(
            max_position_embeddings=length,
            d_model=WIDTH,
            dropout=0.0,
            use_cache=False,
            **sides,
        )
        model = transformers.BartForConditionalGeneration(config)
        inputs = dict(input_ids=draw(length), labels=draw(length))

    inputs = {name: ids.to(DEVICE) for name, ids in inputs.items()}

    def loss_of():
        with narrow(dtype):
            return model(**inputs).loss

    return trained_by_torch(model.train(), loss_of, compiled)


BART_SIDE = {"layers": 3, "attention_heads": HEADS, "ffn_dim": 4 * WIDTH}


def sides(make, name: str):
    return {
        "pretrainx": make,
        "torch eager": functools.partial(torch_side, name=name),
        "torch compiled": functools.partial(torch_side, name=name, compiled=True),
    }


CASES = {
    "bert": sides(functools.partial(our_bert, gather=True), "bert"),
    "bert-dense": sides(functools.partial(our_bert, gather=False), "bert"),
    "t5": sides(our_t5, "t5"),
    "bart": sides(our_bart, "bart"),
}

if __name__ == "__main__":
    main(__doc__.split("\n")[0], CASES, dtypes="float32")
