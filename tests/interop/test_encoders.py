"""Encoders and encoder-decoders in and out: where their numbers lie, their copies and buffers, what is left out or refused."""

from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file

from interop.made import ALL, BART, BERT, FEATURES, PAIRS, ROBERTA, T5, make, tensors
from interop.test_huggingface import export
from pretrainx.core import paths
from pretrainx.core.errors import ConfigError, DataError
from pretrainx.interop import directory


def test_where_the_numbers_of_encoders_lie(tmp_path):
    for values, front, head in ((BERT, "bert.", "cls.predictions."), (ROBERTA, "roberta.", "lm_head.")):
        read, given = directory.read(make(tmp_path / front, values)), tensors(values)
        layers, block = read.params["layers"], front + "encoder.layer.2."
        query = given[block + "attention.self.query.weight"]
        assert np.array_equal(layers["attention"]["query"]["kernel"][2, :, 1], query[5:10].T)
        norms = {"attention_norm": "attention.output.LayerNorm", "mlp_norm": "output.LayerNorm"}
        for ours, theirs in norms.items():
            assert np.array_equal(layers[ours]["scale"][2], given[f"{block}{theirs}.weight"])
        assert np.array_equal(read.params["logit_bias"][:260], given[head + "bias"])
        assert read.params["logit_bias"].shape == (320,) and not read.params["logit_bias"][260:].any()
        assert np.array_equal(read.params["position"]["table"], given[front + "embeddings.position_embeddings.weight"])
    assert (read.config.position_offset, read.config.max_length, read.config.types) == (4, 40, 1)


def test_where_the_numbers_of_encoder_decoders_lie(tmp_path):
    for values, front, query, cross in (
        (T5, "decoder.block.1.layer.", "0.SelfAttention.q.weight", "1.EncDecAttention.v.weight"),
        (BART, "model.decoder.layers.1.", "self_attn.q_proj.weight", "encoder_attn.v_proj.weight"),
    ):
        read, given = directory.read(make(tmp_path / values["model_type"], values)), tensors(values)
        size, layers = read.config.head_size, read.params["decoder"]["layers"]
        third = given[front + query][2 * size : 3 * size]
        assert np.array_equal(layers["attention"]["query"]["kernel"][1, :, 2], third.T)
        assert np.array_equal(layers["cross"]["value"]["kernel"][1, :, 0], given[front + cross][:size].T)
        depths = (read.params[side]["layers"]["attention_norm"]["scale"].shape[0] for side in ("encoder", "decoder"))
        assert tuple(depths) == (read.config.depth, read.config.target_depth) == (3, 2)


def test_what_a_model_has_is_in_its_files(tmp_path):
    """The same configuration: a head, a head and two sentences, features; two forms of T5."""
    read = {name: directory.read(make(tmp_path / name, values)).config for name, values in ALL.items()}
    forms = {name: (config.head, config.pooler) for name, config in read.items() if hasattr(config, "pooler")}
    assert forms == {
        "bert": ("transform", False),
        "pairs": ("transform", True),
        "features": ("none", True),
        "roberta": ("transform", False),
    }
    heads = [(read[name].tied, read[name].scaled_logits) for name in ("t5", "t5-first")]
    assert heads == [(False, False), (True, True)]


@pytest.mark.parametrize(("values", "prefix"), [(BERT, "bert."), (BART, "model.")], ids=["bert", "bart"])
def test_copies_and_buffers(tmp_path, values, prefix):
    """What other versions store too: copies of tied tensors, positions; without a prefix, but for a head."""
    given, read = tensors(values), directory.read(make(tmp_path / "plain", values))
    more = {name.removeprefix(prefix): array for name, array in given.items()}
    if values is BERT:
        more["embeddings.position_ids"] = np.arange(40)[None]
        more["embeddings.LayerNorm.gamma"] = more.pop("embeddings.LayerNorm.weight")
        more["cls.predictions.decoder.weight"] = more["embeddings.word_embeddings.weight"].copy()
        more["cls.predictions.decoder.bias"] = more["cls.predictions.bias"].copy()
    else:
        more |= {f"{side}.embed_tokens.weight": more["shared.weight"].copy() for side in ("encoder", "decoder")}
        more["lm_head.weight"] = more.pop("shared.weight")  # any of the copies will do
    full = directory.read(make(tmp_path / "more", values, more))
    pairs = zip(paths.leaves(read.params), paths.leaves(full.params), strict=True)
    assert full.config == read.config and all(a == b and np.array_equal(x, y) for (a, x), (b, y) in pairs)
    for name in (
        ("cls.predictions.decoder.bias",) if values is BERT else ("lm_head.weight", "decoder.embed_tokens.weight")
    ):
        with pytest.raises(DataError, match="the two tensors differ"):
            directory.read(make(tmp_path / "other", values, more | {name: more[name] + 1}))


def test_a_bias_of_the_logits_that_has_no_leaf(tmp_path):
    given = tensors(BART)
    given["final_logits_bias"][0, 7] = 1e-3
    with pytest.raises(DataError, match="it is not zero") as caught:
        directory.read(make(tmp_path, BART, given))
    assert caught.value.where.endswith("final_logits_bias")


def test_a_pooler_without_a_reader(tmp_path):
    """Named, and not in the model; a head that is not ours is no such thing."""
    given = {name: array for name, array in tensors(PAIRS).items() if "seq_relationship" not in name}
    read = directory.read(make(tmp_path / "bert", BERT, given))
    assert read.facts["left_out"] == ["bert.pooler.dense.bias", "bert.pooler.dense.weight"]
    assert not read.config.pooler and "pooler" not in read.params
    given["classifier.weight"] = np.zeros((2, 15), np.float32)
    with pytest.raises(DataError) as caught:
        directory.read(make(tmp_path / "more", BERT, given))
    assert caught.value.why == "classifier.weight: not used, [2, 15]"


@pytest.mark.parametrize("pad", [0, 2, 5])
def test_positions_begin_behind_the_padding(tmp_path, pad):
    """There its id says where they begin: rows that no position has are left out or added, and the others are the same."""
    read = directory.read(make(tmp_path / "hf", ROBERTA))
    export(read, tmp_path / "out", facts=None, special={"pad": pad, "eos": 1})
    again = directory.read(tmp_path / "out")
    assert again.config == replace(read.config, position_offset=pad + 1)
    tables = [model.params["position"]["table"] for model in (read, again)]
    assert np.array_equal(tables[0][4:], tables[1][pad + 1 :]) and len(tables[1]) == 40 + pad + 1
    with pytest.raises(ConfigError, match="does not have") as caught:
        export(read, tmp_path / "none", facts=None, special={"eos": 1})
    assert caught.value.where == "config.model.position_offset" and not (tmp_path / "none").exists()


def test_the_base_model_is_written_without_a_prefix(tmp_path):
    read = directory.read(make(tmp_path / "hf", FEATURES))
    export(read, tmp_path / "out")
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert found.keys() == tensors(FEATURES).keys() and "pooler.dense.bias" in found


@pytest.mark.parametrize("values", [BERT, ROBERTA], ids=["bert", "roberta"])
def test_a_model_without_types_has_one_that_adds_nothing(tmp_path, values):
    read = directory.read(make(tmp_path / "hf", values))
    params = {name: leaf for name, leaf in read.params.items() if name != "type"}
    ours = replace(read, config=replace(read.config, types=0), params=params)
    export(ours, tmp_path / "out", facts=None, special={"pad": values["pad_token_id"]})
    again = directory.read(tmp_path / "out")
    assert again.config.types == 1 and not again.params["type"]["table"].any()
    rest = {name: leaf for name, leaf in again.params.items() if name != "type"}
    pairs = zip(paths.leaves(rest), paths.leaves(params), strict=True)
    assert all(a == b and np.array_equal(x, y) for (a, x), (b, y) in pairs)
