"""GPT-2 against `transformers.GPT2LMHeadModel` from the same random weights, at sizes that hide nothing."""

import json

import jax
import numpy as np
import pytest

from parity.reference import IDS, VOCAB, Ours, compare, compare_packed, randomised
from pretrainx.interop import directory

pytestmark = [pytest.mark.usefixtures("reference"), pytest.mark.xdist_group("parity")]


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def build(dtype="float64", **changes):
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"vocab_size": VOCAB, "n_positions": 22, "n_embd": 15, "n_layer": 3, "n_head": 3, "bos_token_id": 1}
    off = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "eos_token_id": 1}
    return randomised(GPT2LMHeadModel(GPT2Config(**{**sizes, **off, **changes})), dtype)


@pytest.mark.parametrize(
    ("dtype", "tolerance", "changes"),
    [
        ("float64", 1e-9, {}),
        ("float32", 1e-4, {}),
        ("float64", 1e-9, {"n_head": 5, "n_inner": 44, "tie_word_embeddings": False}),
        ("float64", 1e-9, {"activation_function": "gelu", "layer_norm_epsilon": 1e-3}),
    ],
    ids=["float64", "float32", "untied", "gelu"],
)
def test_logits_loss_and_every_gradient(tmp_path, dtype, tolerance, changes):
    model = build(dtype, **changes)
    compare(model, tmp_path, dtype, tolerance)


def test_packed_rows_are_the_documents_alone(tmp_path):
    compare_packed(build(), tmp_path, "float64", 1e-9)


def test_greedy_decoding_with_a_cache(tmp_path):
    import torch

    model = build(tie_word_embeddings=False)  # a tied head would repeat its input
    wanted = model.generate(
        torch.tensor(IDS[:, :4], dtype=torch.long), max_new_tokens=9, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    found = Ours(model, tmp_path, "float64").greedy(IDS[:, :4], 9)
    assert np.array_equal(found, wanted.numpy()) and len(np.unique(found[:, 4:])) > 3


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_round_trip_is_bit_identical(tmp_path, dtype):
    """Tensors, the configuration, and the logits of the model that is loaded from what we wrote."""
    import torch
    from safetensors.torch import load_file
    from transformers import GPT2LMHeadModel

    build(dtype).save_pretrained(tmp_path / "hf")
    read = directory.read(tmp_path / "hf")
    directory.write(
        tmp_path / "again", read.config, read.params, ids=VOCAB, vocab_size=VOCAB, max_length=22, facts=read.facts
    )
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("hf", "again"))
    assert before.keys() == after.keys() and all(before[name].dtype == after[name].dtype for name in before)
    assert all(torch.equal(before[name], after[name]) for name in before)
    first, second = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("hf", "again"))
    assert first == second
    tokens = torch.tensor(IDS, dtype=torch.long)
    logits = [GPT2LMHeadModel.from_pretrained(tmp_path / name)(tokens).logits for name in ("hf", "again")]
    assert torch.equal(*logits)


def test_an_exported_run_is_a_model_and_a_tokenizer(tmp_path):
    """Import and export as the commands do it: transformers finds both, with our ids and our loss."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from interop.made import GPT2, make
    from pretrainx.runs.interop import export_model, import_model
    from pretrainx.runs.load import load

    import_model(make(tmp_path / "hf", GPT2), tmp_path / "run", say=lambda line: None)
    export_model(tmp_path / "run", tmp_path / "out", say=lambda line: None)
    run, text = load(tmp_path / "run"), "A na\u00efve text,\nof 40 bytes and one more, as it is\u2026"
    model, tokenizer = (kind.from_pretrained(tmp_path / "out") for kind in (AutoModelForCausalLM, AutoTokenizer))
    ids = run.tokenizer.encode_batch([text])[0]
    assert tokenizer(text).input_ids == ids.tolist() and tokenizer.eos_token_id == run.tokenizer.end == 256
    rows = np.full((1, run.config.data.length + 1), run.tokenizer.vocabulary.special("pad"), np.int32)
    rows[0, : len(ids)] = ids[: rows.shape[1]]
    tokens = torch.tensor(rows[:, : len(ids)], dtype=torch.long)
    wanted = model.eval()(tokens[:, :-1]).logits
    wanted = torch.nn.functional.cross_entropy(wanted[0], tokens[0, 1:]).item()
    assert abs(run.loss({"tokens": rows})["loss"] - wanted) < 1e-4 * wanted
