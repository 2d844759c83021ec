"""RoBERTa against `transformers.RobertaForMaskedLM` from the same random weights; positions begin behind the padding's."""

import jax
import numpy as np
import pytest

from parity.observed import LENGTH, LENGTHS, ROWS, Ours, compare, compare_round_trip, mean_loss, rows, within
from parity.reference import VOCAB, apart, randomised
from pretrainx.interop import directory
from pretrainx.objectives.masked_lm import MaskedLmConfig

pytestmark = [pytest.mark.usefixtures("reference"), pytest.mark.xdist_group("parity")]

SPECIALS = {"bos": 0, "pad": 1, "eos": 2, "mask": 3}
REAL = within(LENGTH, LENGTHS)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def build(name="RobertaForMaskedLM", dtype="float64", **changes):
    import transformers

    sizes = {"vocab_size": VOCAB, "hidden_size": 15, "num_hidden_layers": 3, "num_attention_heads": 3}
    sizes |= {"intermediate_size": 44, "max_position_embeddings": 22, "type_vocab_size": 1, "layer_norm_eps": 1e-5}
    off = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return randomised(getattr(transformers, name)(transformers.RobertaConfig(**{**sizes, **off, **changes})), dtype)


def observation(pad=1):
    targets = rows(LENGTH, LENGTHS, pad)
    chosen = ((np.random.default_rng(3).random((ROWS, LENGTH)) < 0.4) & REAL).astype(np.float32)
    tokens = np.where(chosen > 0, 3, targets).astype(np.int32)
    return {"tokens": tokens, "segments": REAL.astype(np.int32)}, targets, chosen


def run(model, inputs):
    import torch

    tokens, mask = (torch.tensor(inputs[name], dtype=torch.long) for name in ("tokens", "segments"))
    return model(input_ids=tokens, attention_mask=mask)[0]


@pytest.mark.parametrize(
    ("dtype", "tolerance", "pad"),
    [("float32", 1e-4, 1), ("float64", 1e-9, 4)],
    ids=["float32", "float64"],
)
def test_logits_loss_and_every_gradient(tmp_path, dtype, tolerance, pad):
    """Whatever the padding's id is: one row's first token stands at that id and 1."""
    model, (inputs, targets, chosen) = build(dtype=dtype, pad_token_id=pad), observation(pad)
    ours = Ours.of(model, tmp_path, dtype, MaskedLmConfig(max_predictions=LENGTH), SPECIALS | {"pad": pad})
    assert (ours.read.config.position_offset, ours.read.config.max_length) == (pad + 1, 21 - pad)
    logits = run(model, inputs)
    loss = mean_loss(logits, targets, chosen)
    compare(ours, model, inputs, targets, {"nll": chosen}, logits, loss, REAL, tolerance)


def test_the_base_model_has_features(tmp_path):
    model, (inputs, _, _) = build("RobertaModel"), observation()
    ours = Ours.of(model, tmp_path, "float64", MaskedLmConfig(), SPECIALS)
    hidden = run(model, inputs).detach().numpy()
    assert apart(ours.outputs(inputs, "hidden", "pooled")["hidden"][REAL], hidden[REAL]) < 1e-9


@pytest.mark.parametrize("name", ["RobertaForMaskedLM", "RobertaModel"])
def test_round_trip_is_bit_identical(tmp_path, name):
    import torch

    model, (inputs, _, _) = build(name, dtype="float32"), observation()
    for loaded in compare_round_trip(model, tmp_path):
        assert torch.equal(run(loaded, inputs), run(model, inputs))


@pytest.mark.parametrize("pad", [0, 5])
def test_written_for_another_padding(tmp_path, pad):
    """A tokenizer of ours has its padding elsewhere: the reference begins positions behind that, and has the same logits."""
    from transformers import RobertaForMaskedLM

    model, (inputs, _, _) = build(), observation(pad)
    ours = Ours.of(model, tmp_path / "hf", "float64", MaskedLmConfig(), SPECIALS | {"pad": pad, "bos": 1})
    read, ids = ours.read, {"ids": VOCAB, "vocab_size": VOCAB, "max_length": ours.read.config.max_length}
    directory.write(tmp_path / "out", read.config, read.params, **ids, special={"pad": pad, "eos": 2})
    written = RobertaForMaskedLM.from_pretrained(tmp_path / "out").eval()
    assert written.config.pad_token_id == pad
    found, wanted = ours.outputs(inputs, "logits")["logits"], run(written, inputs).detach().numpy()
    assert apart(found[REAL], wanted[REAL]) < 1e-9
