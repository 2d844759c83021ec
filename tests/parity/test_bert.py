"""BERT against `transformers` from the same random weights: masked tokens, next sentences, bare features."""

import jax
import numpy as np
import pytest

from parity.observed import LENGTH, LENGTHS, ROWS, Ours, compare, compare_round_trip, mean_loss, rows, within
from parity.reference import VOCAB, apart, randomised
from pretrainx.interop import directory
from pretrainx.objectives.masked_lm import MaskedLmConfig

pytestmark = [pytest.mark.usefixtures("reference"), pytest.mark.xdist_group("parity")]

RNG = np.random.default_rng(3)
TARGETS, REAL = rows(LENGTH, LENGTHS, 0), within(LENGTH, LENGTHS)
CHOSEN = ((RNG.random((ROWS, LENGTH)) < 0.4) & REAL).astype(np.float32)
INPUTS = {
    "tokens": np.where(CHOSEN > 0, 2, TARGETS).astype(np.int32),
    "segments": REAL.astype(np.int32),
    "types": ((np.arange(LENGTH) > 5) & REAL).astype(np.int32),
}
FOLLOWS = np.array([0, 1, 1], np.int32)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def build(name="BertForMaskedLM", dtype="float64", **changes):
    import transformers

    sizes = {"vocab_size": VOCAB, "hidden_size": 15, "num_hidden_layers": 3, "num_attention_heads": 3}
    sizes |= {"intermediate_size": 44, "max_position_embeddings": 22, "type_vocab_size": 3}
    off = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return randomised(getattr(transformers, name)(transformers.BertConfig(**{**sizes, **off, **changes})), dtype)


def run(model, inputs=INPUTS):
    import torch

    names = {"tokens": "input_ids", "segments": "attention_mask", "types": "token_type_ids"}
    return model(**{names[name]: torch.tensor(value, dtype=torch.long) for name, value in inputs.items()})


@pytest.mark.parametrize(
    ("dtype", "tolerance", "gather", "changes"),
    [
        ("float32", 1e-4, True, {}),
        ("float64", 1e-9, False, {"hidden_act": "relu", "num_attention_heads": 5, "layer_norm_eps": 1e-3}),
    ],
    ids=["float32", "float64"],
)
def test_logits_loss_and_every_gradient(tmp_path, dtype, tolerance, gather, changes):
    model = build(dtype=dtype, **changes)
    objective = MaskedLmConfig(gather=gather, max_predictions=LENGTH, special_tokens=False)
    ours, logits = Ours.of(model, tmp_path, dtype, objective), run(model).logits
    loss = mean_loss(logits, TARGETS, CHOSEN)
    compare(ours, model, INPUTS, TARGETS, {"nll": CHOSEN}, logits, loss, REAL, tolerance)


def test_next_sentence(tmp_path):
    """The pooler and the two classes: their loss beside the masked tokens', with every gradient."""
    import torch

    model = build("BertForPreTraining")
    ours = Ours.of(model, tmp_path, "float64", MaskedLmConfig(max_predictions=LENGTH, next_sentence=True))
    found = run(model)
    related = torch.nn.functional.cross_entropy(found.seq_relationship_logits, torch.tensor(FOLLOWS, dtype=torch.long))
    loss = mean_loss(found.prediction_logits, TARGETS, CHOSEN) + related
    targets = {"tokens": TARGETS, "next_sentence": FOLLOWS}
    weights = {"nll": CHOSEN, "next_sentence": np.ones(ROWS, np.float32)}
    compare(ours, model, INPUTS, targets, weights, found.prediction_logits, loss, REAL, 1e-9)


def test_the_base_model_has_features(tmp_path):
    """Without heads, its tensors without a prefix: hidden states, their mean and what the pooler makes of the first."""
    model = build("BertModel")
    ours, found = Ours.of(model, tmp_path, "float64", MaskedLmConfig()), run(model)
    outputs = ours.outputs(INPUTS, "hidden", "features", "pooled")
    hidden = found.last_hidden_state.detach().numpy()
    assert apart(outputs["hidden"][REAL], hidden[REAL]) < 1e-9
    assert apart(outputs["pooled"], found.pooler_output.detach().numpy()) < 1e-9
    mean = (hidden * REAL[..., None]).sum(1) / REAL.sum(1, keepdims=True)
    assert apart(outputs["features"], mean) < 1e-9


@pytest.mark.parametrize("name", ["BertForMaskedLM", "BertForPreTraining", "BertModel"])
def test_round_trip_is_bit_identical(tmp_path, name):
    import torch

    model = build(name, dtype="float32")
    wanted = run(model)[0]
    for loaded in compare_round_trip(model, tmp_path):
        assert torch.equal(run(loaded)[0], wanted)


def test_a_pooler_that_nothing_reads_is_left_out(tmp_path):
    """The head of masked tokens in a file with a pooler, as the hub has some: named, and not in the model."""
    from safetensors.torch import load_file, save_file

    build(dtype="float32").save_pretrained(tmp_path)
    given = load_file(tmp_path / "model.safetensors")
    dense = {leaf: given[f"cls.predictions.transform.dense.{leaf}"].clone() for leaf in ("weight", "bias")}
    pooler = {f"bert.pooler.dense.{leaf}": array for leaf, array in dense.items()}
    save_file(given | pooler, tmp_path / "model.safetensors", metadata={"format": "pt"})
    read = directory.read(tmp_path)
    assert read.facts["left_out"] == sorted(pooler) and not read.config.pooler and "pooler" not in read.params


@pytest.mark.parametrize("name", ["pairs", "roberta", "t5", "bart"])
def test_an_exported_run_is_a_model_and_a_tokenizer(tmp_path, name):
    """Import and export as the commands do it: transformers finds both, with our ids, our specials and our logits."""
    import torch
    import transformers

    from interop.made import ALL, make
    from pretrainx.runs.interop import export_model, import_model
    from pretrainx.runs.load import load

    import_model(make(tmp_path / "hf", ALL[name]), tmp_path / "run", say=lambda line: None)
    export_model(tmp_path / "run", tmp_path / "out", say=lambda line: None)
    run, texts = load(tmp_path / "run"), ["A na\u00efve text,", "of 40 bytes"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    given, ids = tokenizer(texts[:1], return_tensors="pt"), run.tokenizer.encode_batch(texts)
    assert given.input_ids[0].tolist() == ids[0].tolist()
    for special, token in run.tokenizer.vocabulary.specials:
        assert getattr(tokenizer, f"{special}_token_id") == token
    encodes = name in ("pairs", "roberta")
    kind = transformers.AutoModelForPreTraining if encodes else transformers.AutoModelForSeq2SeqLM
    inputs = {"tokens": ids[0][None]}
    if not encodes:
        inputs = {
            "source": ids[0][None],
            "tokens": np.concatenate([[run.objective.begin], ids[1]])[None].astype(np.int32),
        }
        given["decoder_input_ids"] = torch.tensor(inputs["tokens"], dtype=torch.long)
    with torch.no_grad():
        wanted = kind.from_pretrained(tmp_path / "out").eval()(**given)
    wanted = (wanted.prediction_logits if name == "pairs" else wanted.logits).numpy()
    found = np.asarray(run.outputs(inputs, ["logits"])["logits"])[..., : wanted.shape[-1]]
    assert apart(found, wanted) < 1e-4
