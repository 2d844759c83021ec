"""BART against `transformers.BartForConditionalGeneration` from the same random weights."""

import jax
import pytest

from parity.observed import (
    LENGTH,
    LENGTHS,
    SOURCE,
    Ours,
    compare,
    compare_decoding,
    compare_round_trip,
    mean_loss,
    pair,
    run_pair,
    within,
)
from parity.reference import VOCAB, randomised
from pretrainx.objectives.denoising import DenoisingConfig

pytestmark = [pytest.mark.usefixtures("reference"), pytest.mark.xdist_group("parity")]

SPECIALS = {"bos": 0, "pad": 1, "eos": 2, "mask": 3}
REAL = within(LENGTH, LENGTHS)
INPUTS, TARGETS, WEIGHTS = pair(1, 2)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def build(dtype="float64", **changes):
    from transformers import BartConfig, BartForConditionalGeneration

    sizes = {
        "vocab_size": VOCAB,
        "max_position_embeddings": 22,
        "d_model": 15,
        "encoder_layers": 3,
        "decoder_layers": 2,
    }
    sides = {"ffn_dim": 44, "attention_heads": 3}
    sizes |= {f"{side}_{name}": size for name, size in sides.items() for side in ("encoder", "decoder")}
    off = {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0}
    ids = {
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "decoder_start_token_id": 2,
        "forced_eos_token_id": None,
    }
    return randomised(BartForConditionalGeneration(BartConfig(**{**sizes, **off, **ids, **changes})), dtype)


def read(model, folder, dtype="float64"):
    return Ours.of(model, folder, dtype, DenoisingConfig(), SPECIALS, SOURCE)


@pytest.mark.parametrize(
    ("dtype", "tolerance", "changes"),
    [
        ("float32", 1e-4, {}),
        ("float64", 1e-9, {"activation_function": "relu", "decoder_layers": 3}),
    ],
    ids=["float32", "float64"],
)
def test_logits_loss_and_every_gradient(tmp_path, dtype, tolerance, changes):
    model = build(dtype, **changes)
    logits = run_pair(model, INPUTS)
    loss = mean_loss(logits, TARGETS, WEIGHTS["nll"])
    compare(read(model, tmp_path, dtype), model, INPUTS, TARGETS, WEIGHTS, logits, loss, REAL, tolerance)


def test_decoding_with_a_cache(tmp_path):
    import torch

    model = build()
    with torch.no_grad():  # a tied head would repeat its input
        model.model.decoder.embed_positions.weight *= 10
    compare_decoding(read(model, tmp_path), model, INPUTS, 1e-9)


def test_round_trip_is_bit_identical(tmp_path):
    import torch

    model = build("float32")
    for loaded in compare_round_trip(model, tmp_path):
        assert torch.equal(run_pair(loaded, INPUTS), run_pair(model, INPUTS))
