"""Directories in and out: where each number lies, that nothing is lost, and that nothing is guessed."""

import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from interop.made import ALL, BART, BERT, GPT2, LLAMA, PAIRS, ROBERTA, T5, T5_FIRST, VOCAB, make, tensors
from pretrainx.core import paths
from pretrainx.core.errors import ConfigError, DataError
from pretrainx.interop import directory
from pretrainx.models.decoder import DecoderConfig

FAMILIES = pytest.mark.parametrize("values", ALL.values(), ids=ALL)


def export(read, target, **changes):
    ids = {"ids": read.vocab_size, "vocab_size": read.vocab_size}
    sizes = ids | {"max_length": read.config.max_length, "facts": read.facts}
    directory.write(target, read.config, read.params, **{**sizes, **changes})


def test_where_the_numbers_of_gpt2_lie(tmp_path):
    read, given = directory.read(make(tmp_path, GPT2)), tensors(GPT2)
    layers = read.params["layers"]
    for layer in range(3):
        fused = given[f"transformer.h.{layer}.attn.c_attn.weight"]
        bias = given[f"transformer.h.{layer}.attn.c_attn.bias"]
        for part, name in enumerate(("query", "key", "value")):
            for head in range(3):
                columns = slice(15 * part + 5 * head, 15 * part + 5 * head + 5)
                assert np.array_equal(layers["attention"][name]["kernel"][layer, :, head], fused[:, columns])
                assert np.array_equal(layers["attention"][name]["bias"][layer, head], bias[columns])
        out = given[f"transformer.h.{layer}.attn.c_proj.weight"]
        assert np.array_equal(layers["attention"]["out"]["kernel"][layer, 2], out[10:15])
        assert np.array_equal(layers["mlp"]["up"]["kernel"][layer], given[f"transformer.h.{layer}.mlp.c_fc.weight"])
    assert read.params["token"]["table"].shape == (320, 15) and not read.params["token"]["table"][VOCAB:].any()
    assert read.config == DecoderConfig(15, 3, 3, mlp_width=60, max_length=40)


def test_where_the_numbers_of_llama_lie(tmp_path):
    read, given = directory.read(make(tmp_path, LLAMA)), tensors(LLAMA)
    attention = read.params["layers"]["attention"]
    for layer in range(3):
        front = f"model.layers.{layer}.self_attn."
        assert np.array_equal(attention["query"]["kernel"][layer, :, 3], given[front + "q_proj.weight"][18:24].T)
        assert np.array_equal(attention["key"]["kernel"][layer, :, 1], given[front + "k_proj.weight"][6:12].T)
        assert np.array_equal(attention["out"]["kernel"][layer, 1], given[front + "o_proj.weight"][:, 6:12].T)
    assert np.array_equal(read.params["unembed"]["kernel"][:, :VOCAB], given["lm_head.weight"].T)
    config = read.config
    assert (config.rotary_base, config.norm_epsilon, config.shared_heads, config.head_size) == (30000.0, 1e-6, 2, 6)
    assert config.gated and not config.tied and not config.bias and config.positions == "rotary"


@FAMILIES
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_round_trip_is_bit_identical(tmp_path, values, dtype):
    given = tensors(values, dtype)
    read = directory.read(make(tmp_path / "hf", values, given))
    export(read, tmp_path / "again")
    found = load_file(tmp_path / "again" / "model.safetensors")
    assert found.keys() == given.keys()
    assert all(found[name].dtype == given[name].dtype for name in given)
    assert all(found[name].tobytes() == given[name].tobytes() for name in given)
    written = json.loads((tmp_path / "again" / "config.json").read_text())
    assert written == {name: value for name, value in values.items() if name != "torch_dtype"} | {"dtype": dtype}
    assert (tmp_path / "again" / "generation_config.json").is_file()

    again = directory.read(tmp_path / "again")
    assert again.config == read.config
    assert all(
        np.array_equal(a, b)
        for (_, a), (_, b) in zip(paths.leaves(again.params), paths.leaves(read.params), strict=True)
    )


@FAMILIES
def test_ours_comes_back(tmp_path, values):
    """A model that was never theirs has no facts: its config.json is made from ours, and says the same."""
    read = directory.read(make(tmp_path / "hf", values))
    special = {"eos": 256} | ({"pad": values["pad_token_id"]} if "pad_token_id" in values else {})
    export(read, tmp_path / "ours", facts=None, special=special)
    again = directory.read(tmp_path / "ours")
    unsaid = {"scaled_residual": read.config.scaled_residual} if values["model_type"] in ("gpt2", "llama") else {}
    assert replace(again.config, **unsaid) == read.config
    pairs = zip(paths.leaves(again.params), paths.leaves(read.params), strict=True)
    assert all(a == b and np.array_equal(x, y) for (a, x), (b, y) in pairs)
    written = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert written["eos_token_id"] == 256 and written["pad_token_id"] == special.get("pad")
    assert written["dtype"] == "float32" and written["architectures"] == values["architectures"]


def test_names_without_prefix_and_stored_masks(tmp_path):
    """The files of the first GPT-2: the base model alone, its causal masks among the tensors, a copy of the table."""
    given = {name.removeprefix("transformer."): array for name, array in tensors(GPT2).items()}
    given |= {f"h.{layer}.attn.bias": np.tril(np.ones((1, 1, 40, 40), np.float32)) for layer in range(3)}
    given["lm_head.weight"] = given["wte.weight"].copy()
    read = directory.read(make(tmp_path / "bare", GPT2, given))
    full = directory.read(make(tmp_path / "full", GPT2))
    pairs = zip(paths.leaves(read.params), paths.leaves(full.params), strict=True)
    assert all(a == b and np.array_equal(x, y) for (a, x), (b, y) in pairs)


def shard(folder, arrays, **index):
    make(folder, LLAMA, {})
    (folder / "model.safetensors").unlink()
    names = sorted(arrays)
    files = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in files.items():
        save_file({name: arrays[name] for name in part}, folder / file)
    weight_map = {name: file for file, part in files.items() for name in part} | index
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def test_shards(tmp_path):
    read = directory.read(shard(tmp_path / "shards", tensors(LLAMA)))
    whole = directory.read(make(tmp_path / "whole", LLAMA))
    pairs = zip(paths.leaves(read.params), paths.leaves(whole.params), strict=True)
    assert all(a == b and np.array_equal(x, y) for (a, x), (b, y) in pairs)
    moved = {"model.norm.weight": "a.safetensors", "z": "b.safetensors"}
    with pytest.raises(DataError, match="what their index says") as caught:
        directory.read(shard(tmp_path / "moved", tensors(LLAMA), **moved))
    assert "z: in None" in str(caught.value)
    for number, file in enumerate(("../whole/model.safetensors", "..", 3, None, ["a.safetensors"])):
        with pytest.raises(DataError, match="damaged|cannot be read"):
            directory.read(shard(tmp_path / f"odd-{number}", tensors(LLAMA), **{"model.norm.weight": file}))


@pytest.mark.parametrize(
    ("values", "changes", "says"),
    [
        (GPT2, {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx: true is another model"),
        (GPT2, {"scale_attn_weights": False}, "scale_attn_weights: false"),
        (GPT2, {"add_cross_attention": True}, "add_cross_attention: true"),
        (GPT2, {"activation_function": "tanh"}, "activation_function: 'tanh' is not supported"),
        (GPT2, {"n_head": 4}, "n_head: 4 does not divide n_embd 15"),
        (GPT2, {"n_embd": 15.0}, "n_embd: 15.0, expected a whole number"),
        (GPT2, {"rotary_dim": 3}, "rotary_dim: unknown, 3"),
        (LLAMA, {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "rope_scaling: .*llama3"),
        (LLAMA, {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "rope_parameters: .*yarn"),
        (LLAMA, {"rope_parameters": {"rope_theta": 1e4, "factor": 2.0}}, "rope_parameters: .*factor"),
        (LLAMA, {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}}, "rope_parameters: .*0.5"),
        (LLAMA, {"attention_bias": True}, "attention_bias: true"),
        (LLAMA, {"mlp_bias": True}, "mlp_bias: true"),
        (LLAMA, {"pretraining_tp": 2}, "pretraining_tp: 2"),
        (LLAMA, {"sliding_window": 128}, "sliding_window: 128"),
        (LLAMA, {"rope_interleaved": True}, "rope_interleaved: true"),
        (LLAMA, {"hidden_act": "relu2"}, "hidden_act: 'relu2'"),
        (LLAMA, {"num_key_value_heads": 3}, "num_key_value_heads: 3 does not divide"),
        (LLAMA, {"head_dim": 5}, "head_dim: 5 is odd"),
        (LLAMA, {"rms_norm_eps": 0}, "rms_norm_eps: 0, expected a number above 0"),
        (LLAMA, {"quantization_config": {"bits": 4}}, "quantization_config: unknown"),
        (
            LLAMA,
            {"embedding_multiplier": 12.0, "qk_norm": True},
            "embedding_multiplier: unknown(.|\n)*qk_norm: unknown",
        ),
        (BERT, {"position_embedding_type": "relative_key"}, "position_embedding_type: 'relative_key'"),
        (BERT, {"is_decoder": True}, "is_decoder: true"),
        (BERT, {"tie_word_embeddings": False}, "tie_word_embeddings: false"),
        (BERT, {"embedding_size": 7}, "embedding_size: unknown, 7"),
        (BERT, {"num_attention_heads": 4}, "num_attention_heads: 4 does not divide"),
        (ROBERTA, {"max_position_embeddings": 4}, "max_position_embeddings: 4, of which 4 are for padding"),
        (ROBERTA, {"pad_token_id": -1}, "pad_token_id: -1, expected a whole number, 0 or more"),
        (T5, {"feed_forward_proj": "gated-tanh"}, "feed_forward_proj: 'tanh' is not supported"),
        (T5, {"dense_act_fn": "relu"}, "dense_act_fn: 'relu' is another model; supported: 'gelu_new'"),
        (T5, {"scale_decoder_outputs": True}, "scale_decoder_outputs: true beside tie_word_embeddings: false"),
        (T5, {"decoder_start_token_id": 5}, "decoder_start_token_id: 5 is another model; supported: pad_token_id, 256"),
        (T5, {"is_encoder_decoder": False}, "is_encoder_decoder: false"),
        (BART, {"scale_embedding": True}, "scale_embedding: true"),
        (BART, {"decoder_ffn_dim": 30}, "decoder_ffn_dim: 30, the encoder has 22"),
        (BART, {"decoder_attention_heads": 5}, "decoder_attention_heads: 5, the encoder has 3"),
        (BART, {"normalize_before": True}, "normalize_before: true"),
        (BART, {"extra_pos_embeddings": 0}, "extra_pos_embeddings: 0"),
        (BART, {"decoder_start_token_id": 3}, "decoder_start_token_id: 3"),
        (LLAMA, {"model_type": "mixtral"}, "models of type 'mixtral' cannot be imported"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) and "model_type" not in value else "",
)
def test_a_configuration_that_cannot_be_followed(tmp_path, values, changes, says):
    """Each refused by its key, before a tensor is looked at."""
    folder = make(tmp_path, values, {})
    (folder / "config.json").write_text(json.dumps({**values, **changes}))
    with pytest.raises(DataError, match=says) as caught:
        directory.read(folder)
    assert "config.json" in caught.value.where and caught.value.do


def test_tensors_that_do_not_fit_are_all_listed(tmp_path):
    given = tensors(GPT2)
    del given["transformer.ln_f.bias"]
    given["transformer.h.1.mlp.c_fc.weight"] = given["transformer.h.1.mlp.c_fc.weight"].T.copy()
    given["transformer.h.3.ln_1.weight"] = np.ones(15, np.float32)
    with pytest.raises(DataError) as caught:
        directory.read(make(tmp_path, GPT2, given))
    lines = caught.value.why.splitlines()
    assert lines == [
        "transformer.ln_f.bias: missing, expected [15]",
        "transformer.h.3.ln_1.weight: not used, [15]",
        "transformer.h.1.mlp.c_fc.weight: [60, 15], expected [15, 60]",
    ]


def test_files_that_are_refused(tmp_path):
    def refuse(says, folder):
        with pytest.raises(DataError, match=says) as caught:
            directory.read(folder)
        assert caught.value.where
        return caught.value

    refuse("no model to import", tmp_path / "nowhere")
    folder = make(tmp_path / "pickled", LLAMA, {})
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "runs whatever code" in refuse("pickled", folder).why
    (folder / "pytorch_model.bin").unlink()
    refuse("no weights", folder)
    folder = make(tmp_path / "torn", LLAMA)
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])
    refuse("cannot be read", folder)
    (folder / "config.json").write_text("{")
    refuse("cannot be read", folder)
    untied = {**tensors(GPT2), "lm_head.weight": np.zeros((VOCAB, 15), np.float32)}
    assert "tie_word_embeddings" in refuse("head is not the token table", make(tmp_path / "untied", GPT2, untied)).why
    whole = {name: array.astype(np.int8) for name, array in tensors(LLAMA).items()}
    assert "int8" in refuse("dtype that cannot be read", make(tmp_path / "int8", LLAMA, whole)).why


def test_mixed_dtypes_become_the_widest(tmp_path):
    given = tensors(LLAMA, "bfloat16")
    given["model.norm.weight"] = given["model.norm.weight"].astype(np.float32)
    read = directory.read(make(tmp_path, LLAMA, given))
    assert read.facts["dtype"] == "float32" and {leaf.dtype.name for _, leaf in paths.leaves(read.params)} == {
        "float32"
    }


def test_float16_is_written_only_where_nothing_is_lost(tmp_path):
    read = directory.read(make(tmp_path / "hf", LLAMA, tensors(LLAMA, "float16")))
    wide = paths.map_leaves(lambda _, leaf: leaf.astype(np.float32), read.params)
    export(replace(read, params=wide), tmp_path / "same")
    assert json.loads((tmp_path / "same" / "config.json").read_text())["dtype"] == "float16"
    trained = paths.map_leaves(lambda _, leaf: leaf * np.float32(1.001), wide)
    export(replace(read, params=trained), tmp_path / "trained")
    assert json.loads((tmp_path / "trained" / "config.json").read_text())["dtype"] == "float32"
    found = load_file(tmp_path / "trained" / "model.safetensors")["model.norm.weight"]
    assert np.array_equal(found, trained["final_norm"]["scale"])


def test_tables_leave_room_for_the_ids_of_both(tmp_path):
    """More ids in the tokenizer, more rows in the source: all of theirs come back, none of ours goes along."""
    folder = make(tmp_path / "hf", LLAMA)
    more = directory.read(folder, ids=321)
    assert more.params["token"]["table"].shape == (384, 15) and more.params["unembed"]["kernel"].shape == (15, 384)
    fewer = directory.read(folder, ids=100)
    assert fewer.params["token"]["table"].shape == (320, 15)
    for name, read, ids in (("more", more, 321), ("fewer", fewer, 100)):
        export(read, tmp_path / name, ids=ids)
        found = load_file(tmp_path / name / "model.safetensors")
        assert all(np.array_equal(found[key], array) for key, array in tensors(LLAMA).items())


@pytest.mark.parametrize(
    ("values", "changes", "names"),
    [
        (GPT2, {"activation": "relu_squared"}, "activation"),
        (GPT2, {"qk_norm": True, "window": 8}, "qk_norm, config.model.window"),
        (GPT2, {"kv_heads": 1}, "kv_heads"),
        (GPT2, {"head_dim": 4}, "head_dim"),
        (LLAMA, {"logit_cap": 30.0}, "logit_cap"),
        (LLAMA, {"norm": "layer"}, "norm"),
        (BERT, {"norm_first": True}, "norm_first"),
        (BERT, {"head": "linear"}, "head"),
        (BERT, {"tied": False}, "tied"),
        (PAIRS, {"position_offset": 2, "norm": "rms"}, "norm, config.model.position_offset"),
        (ROBERTA, {"pooler": True}, "position_offset"),
        (T5, {"positions": "rotary"}, "positions"),
        (T5, {"activation": "gelu"}, "activation"),
        (T5_FIRST, {"activation": "relu_squared"}, "activation"),
        (BART, {"position_offset": 0}, "position_offset"),
        (BART, {"scaled_logits": True}, "scaled_logits"),
        (BART, {"norm_epsilon": 1e-6}, "norm_epsilon"),
    ],
)
def test_habits_without_a_form_there(tmp_path, values, changes, names):
    read = directory.read(make(tmp_path / "hf", values))
    with pytest.raises(ConfigError) as caught:
        export(replace(read, config=replace(read.config, **changes)), tmp_path / "out")
    assert caught.value.where == f"config.model.{names}" and not (tmp_path / "out").exists()


def test_leaves_of_a_wrapper_are_named(tmp_path):
    read = directory.read(make(tmp_path / "hf", LLAMA))
    params = paths.merge(read.params, {"layers": {"attention": {"query": {"lora_a": np.zeros(3)}}}})
    with pytest.raises(DataError, match="not those of the bare model") as caught:
        export(replace(read, params=params), tmp_path / "out")
    assert caught.value.why == "layers/attention/query/lora_a: has no place there"


def test_nothing_is_overwritten(tmp_path):
    read = directory.read(make(tmp_path / "hf", LLAMA))
    with pytest.raises(ConfigError, match="not empty"):
        export(read, tmp_path / "hf")
    (tmp_path / "empty").mkdir()
    export(read, tmp_path / "empty")
    assert (tmp_path / "empty" / "model.safetensors").is_file()


def test_the_decoder_begins_as_it_was_trained(tmp_path):
    """A BART that was gone on with by another objective; the rest of its files is as it was."""
    values = BART | {"decoder_start_token_id": BART["eos_token_id"]}
    make(tmp_path / "hf", values)
    (tmp_path / "hf" / "generation_config.json").write_text('{"decoder_start_token_id": 257, "max_new_tokens": 5}')
    read = directory.read(tmp_path / "hf")
    files = {"generation_config.json": json.loads((tmp_path / "hf" / "generation_config.json").read_text())}
    found = {}
    for start in (257, 0):
        target = tmp_path / str(start)
        export(read, target, special={"decoder_start": start}, facts=read.facts | {"files": files})
        found[start] = [json.loads((target / name).read_text()) for name in ("config.json", "generation_config.json")]
        assert [each["decoder_start_token_id"] for each in found[start]] == [start, start]
    assert [each | {"decoder_start_token_id": 257} for each in found[0]] == found[257]
    assert found[257][1]["max_new_tokens"] == 5
