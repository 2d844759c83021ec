"""LLaMA against `transformers.LlamaForCausalLM` from the same random weights: shared heads, wide heads, both kinds of head.

The reference keeps norms and rotary angles in float32 whatever its dtype, so float64 agrees to 1e-5 only.
"""

import json

import jax
import numpy as np
import pytest

from parity.reference import IDS, LENGTH, PACKED, SEGMENTS, VOCAB, Ours, apart, compare, compare_packed, randomised
from pretrainx.interop import directory

pytestmark = [pytest.mark.usefixtures("reference"), pytest.mark.xdist_group("parity")]


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


# A head is wider than width / heads, keys are shared by three queries each, the head is a matrix of its own.
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 15,
    "intermediate_size": 27,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "head_dim": 6,
    "max_position_embeddings": 37,
    "rope_parameters": {"rope_type": "default", "rope_theta": 5e5},
    "rms_norm_eps": 1e-5,
    "bos_token_id": 1,
    "eos_token_id": 1,
}
TIED = {"tie_word_embeddings": True, "hidden_size": 30, "num_key_value_heads": 3, "head_dim": None}


def build(dtype="float64", **changes):
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(**{**SIZES, **changes})
    config._attn_implementation = "eager"
    return randomised(LlamaForCausalLM(config), dtype)


@pytest.mark.parametrize(
    ("dtype", "tolerance", "changes"),
    [
        ("float64", 1e-5, {}),
        ("float32", 1e-4, {}),
        ("float64", 1e-5, TIED),
        ("float64", 1e-5, {"hidden_size": 20, "num_attention_heads": 10, "num_key_value_heads": 5, "head_dim": 4}),
    ],
    ids=["float64", "float32", "tied", "grouped"],
)
def test_logits_loss_and_every_gradient(tmp_path, dtype, tolerance, changes):
    compare(build(dtype, **changes), tmp_path, dtype, tolerance)


def test_packed_rows_are_the_documents_alone(tmp_path):
    """And equal the reference's own form of packing: an additive mask [B, 1, T, T] and positions."""
    import torch

    model = build()
    ours, positions, packed = compare_packed(model, tmp_path, "float64", 1e-5)
    segments = SEGMENTS[:, :-1]
    seen = (segments[:, :, None] == segments[:, None, :]) & np.tril(np.ones((LENGTH, LENGTH), bool))
    mask = torch.zeros(len(seen), 1, LENGTH, LENGTH, dtype=torch.float64)
    mask.masked_fill_(~torch.tensor(seen)[:, None], torch.finfo(torch.float64).min)
    logits = model(
        torch.tensor(PACKED[:, :-1], dtype=torch.long),
        attention_mask=mask,
        position_ids=torch.tensor(positions, dtype=torch.long),
    ).logits
    real = segments > 0
    assert apart(packed[real], logits.detach().numpy()[real]) < 1e-5


def test_greedy_decoding_with_a_cache(tmp_path):
    import torch

    model = build()
    wanted = model.generate(
        torch.tensor(IDS[:, :4], dtype=torch.long), max_new_tokens=9, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    found = Ours(model, tmp_path, "float64").greedy(IDS[:, :4], 9)
    assert np.array_equal(found, wanted.numpy()) and len(np.unique(found[:, 4:])) > 3


@pytest.mark.parametrize(("dtype", "changes"), [("float32", {}), ("bfloat16", TIED)], ids=["float32", "bfloat16-tied"])
def test_round_trip_is_bit_identical(tmp_path, dtype, changes):
    """Sharded on the way in, whole on the way out: tensors, the configuration, logits of the model loaded from it."""
    import torch
    from safetensors.torch import load_file
    from transformers import LlamaForCausalLM

    model = build(dtype, **changes)
    model.save_pretrained(tmp_path / "hf", max_shard_size="4KB")
    assert (tmp_path / "hf" / "model.safetensors.index.json").is_file()
    read = directory.read(tmp_path / "hf")
    sizes = {"ids": VOCAB, "vocab_size": VOCAB, "max_length": 37}
    directory.write(tmp_path / "again", read.config, read.params, facts=read.facts, **sizes)
    after = load_file(tmp_path / "again" / "model.safetensors")
    before = {name: tensor for name, tensor in model.state_dict().items() if name in after}
    assert before.keys() == after.keys() and set(model.state_dict()) - after.keys() <= {"lm_head.weight"}
    assert all(torch.equal(before[name], after[name]) and before[name].dtype == after[name].dtype for name in before)
    first, second = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("hf", "again"))
    assert first == second
    tokens = torch.tensor(IDS, dtype=torch.long)
    logits = [LlamaForCausalLM.from_pretrained(tmp_path / name)(tokens).logits for name in ("hf", "again")]
    assert torch.equal(*logits)


def test_ours_is_loaded_by_the_reference(tmp_path):
    """A model that was never theirs: written without facts, loaded by transformers, the same logits."""
    import torch
    from transformers import LlamaForCausalLM

    ours = Ours(build("float32"), tmp_path / "hf", "float32")
    sizes = {"ids": VOCAB, "vocab_size": VOCAB, "max_length": 37}
    directory.write(tmp_path / "ours", ours.read.config, ours.read.params, special={"pad": 0, "eos": 1}, **sizes)
    model = LlamaForCausalLM.from_pretrained(tmp_path / "ours").eval()
    assert model.config.eos_token_id == 1 and model.config.pad_token_id == 0
    logits = model(torch.tensor(IDS, dtype=torch.long)).logits.detach().numpy()
    assert apart(ours.logits(IDS), logits) < 1e-4
