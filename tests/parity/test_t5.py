"""T5 1.0 and 1.1 against `transformers.T5ForConditionalGeneration` from the same random weights.

The reference normalises in float32 whatever its weights are: nothing can be closer than 1e-6.
"""

import json

import jax
import numpy as np
import pytest

from parity.observed import (
    LENGTH,
    LENGTHS,
    Ours,
    compare,
    compare_decoding,
    compare_round_trip,
    mean_loss,
    pair,
    run_pair,
    within,
)
from parity.reference import VOCAB, apart, randomised
from pretrainx.interop import directory
from pretrainx.objectives.span_corruption import SpanCorruptionConfig

pytestmark = [pytest.mark.usefixtures("reference"), pytest.mark.xdist_group("parity")]

NEW = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
REAL = within(LENGTH, LENGTHS)
INPUTS, TARGETS, WEIGHTS = pair(0, 0)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def build(dtype="float64", own_head=False, **changes):
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    sizes = {"vocab_size": VOCAB, "d_model": 15, "d_kv": 6, "d_ff": 44, "num_layers": 3, "num_heads": 4}
    sizes |= {"num_decoder_layers": 2, "relative_attention_num_buckets": 12, "relative_attention_max_distance": 11}
    off = {"dropout_rate": 0.0, "decoder_start_token_id": 0, "pad_token_id": 0}
    model = T5ForConditionalGeneration(T5Config(**{**sizes, **off, **changes}))
    if own_head:  # this version ties it whatever the configuration says
        model.lm_head.weight = torch.nn.Parameter(torch.zeros(VOCAB, 15))
    return randomised(model, dtype)


@pytest.mark.parametrize(
    ("dtype", "tolerance", "changes"),
    [
        ("float64", 1e-5, {}),
        ("float64", 1e-5, {**NEW, "num_decoder_layers": None, "layer_norm_epsilon": 1e-3}),
        ("float32", 1e-4, {**NEW, "own_head": True}),
    ],
    ids=["1.0", "1.1 tied", "1.1"],
)
def test_logits_loss_and_every_gradient(tmp_path, dtype, tolerance, changes):
    model = build(dtype, **changes)
    ours = Ours.of(model, tmp_path, dtype, SpanCorruptionConfig())
    assert ours.read.config.tied == (not changes.get("own_head")) and ours.read.config.scaled_logits == (not changes)
    logits = run_pair(model, INPUTS)
    loss = mean_loss(logits, TARGETS, WEIGHTS["nll"])
    compare(ours, model, INPUTS, TARGETS, WEIGHTS, logits, loss, REAL, tolerance)


def test_padding_of_the_source_is_not_read(tmp_path):
    model = build(**NEW)
    ours = Ours.of(model, tmp_path, "float64", SpanCorruptionConfig())
    outside = INPUTS["source"] == 0
    changed = INPUTS | {"source": np.where(outside, 50, INPUTS["source"]).astype(np.int32)}
    first, second = (ours.outputs(inputs, "logits")["logits"] for inputs in (INPUTS, changed))
    assert outside.any() and np.array_equal(first, second)
    assert apart(second, run_pair(model, changed).detach().numpy()) < 1e-5


def test_decoding_with_a_cache(tmp_path):
    model = build(**NEW, own_head=True)  # a tied head would repeat its input
    compare_decoding(Ours.of(model, tmp_path, "float64", SpanCorruptionConfig()), model, INPUTS, 1e-9)


@pytest.mark.parametrize("changes", [{}, {**NEW, "own_head": True}, NEW], ids=["1.0", "1.1", "1.1 tied"])
def test_round_trip_is_bit_identical(tmp_path, changes):
    import torch

    model = build("float32", **changes)
    for loaded in compare_round_trip(model, tmp_path):
        assert torch.equal(run_pair(loaded, INPUTS), run_pair(model, INPUTS))


def test_what_older_versions_wrote(tmp_path):
    """`tie_word_embeddings` false and a head of its own, without `scale_decoder_outputs`; copies of the table."""
    from safetensors.torch import load_file, save_file

    model = build("float32", own_head=True, **NEW)
    model.save_pretrained(tmp_path)
    given = load_file(tmp_path / "model.safetensors")
    given |= {f"{side}.embed_tokens.weight": given["shared.weight"].clone() for side in ("encoder", "decoder")}
    given["decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"] = given["shared.weight"][
        :12, :4
    ].clone()
    save_file(given, tmp_path / "model.safetensors", metadata={"format": "pt"})
    values = json.loads((tmp_path / "config.json").read_text())
    for name in ("scale_decoder_outputs", "dense_act_fn", "is_gated_act"):
        del values[name]
    (tmp_path / "config.json").write_text(json.dumps(values | {"tie_word_embeddings": False, "n_positions": 512}))
    read = directory.read(tmp_path)
    assert (read.config.tied, read.config.scaled_logits, read.config.gated) == (False, False, True)
    assert np.array_equal(read.params["unembed"]["kernel"][:, :VOCAB], given["lm_head.weight"].numpy().T)
