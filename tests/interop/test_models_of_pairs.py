"""Models of pictures and captions in and out, as directories and by the commands: no number is lost, nothing is guessed."""

import copy
import dataclasses
import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

from interop.made_pairs import ALL, CLIP, PIXELS, SIGLIP, files, make, tensors
from pretrainx.core import paths
from pretrainx.core.errors import ConfigError, DataError
from pretrainx.core.json_lines import read as read_lines
from pretrainx.interop import directory
from pretrainx.runs import interop_of_pairs
from pretrainx.runs.interop import export_model, import_model
from pretrainx.runs.load import load
from pretrainx.runs.train import train

pytestmark = pytest.mark.xdist_group("interop")

PICTURES = np.random.default_rng(0).integers(0, 256, (2, 12, 12, 3), dtype=np.uint8)


def written(folder, name="config.json"):
    return json.loads((folder / name).read_text())


def equal(one, other):
    pairs = zip(paths.leaves(one), paths.leaves(other), strict=True)
    return all(a == b and np.array_equal(x, y) for (a, x), (b, y) in pairs)


def quiet(line):
    pass


def test_where_the_numbers_lie(tmp_path):
    given = tensors("siglip")
    read = directory.read(make(tmp_path / "siglip", "siglip")).params
    fused, pool = given["vision_model.head.attention.in_proj_weight"], read["image"]["map_head"]["pool"]
    assert np.array_equal(pool["key"]["kernel"][:, 2], fused[12 + 8 : 12 + 12].T)  # the third head's keys
    assert np.array_equal(pool["query_kernel"]["bias"][1], given["vision_model.head.attention.in_proj_bias"][4:8])
    assert pool["query"].shape == (1, 12) and read["space"]["offset"] == given["logit_bias"][0]
    value = given["text_model.encoder.layers.1.self_attn.v_proj.weight"]
    assert np.array_equal(read["text"]["layers"]["attention"]["value"]["kernel"][1, :, 1], value[8:].T)
    given = tensors("coca")
    read = directory.read(make(tmp_path / "coca", "coca")).params
    assert np.array_equal(read["pool"]["value"]["kernel"][:, 1], given["visual.attn_pool.attn.v_proj_weight"][8:].T)
    assert np.array_equal(read["unembed"]["kernel"][:, :258], given["text_decoder.text_projection"])
    assert read["unembed"]["kernel"].shape == (16, 320) and not read["unembed"]["kernel"][:, 258:].any()
    assert np.array_equal(read["space"]["image"]["kernel"], given["visual.proj"])
    up = given["text_decoder.cross_attn.0.mlp.c_fc.weight"]
    assert np.array_equal(read["decoder"]["mlp"]["up"]["kernel"][0], up.T)
    up = given["text_decoder.resblocks.0.mlp.c_fc.weight"]
    assert np.array_equal(read["decoder"]["inner_mlp"]["up"]["kernel"][0], up.T)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ALL)
def test_a_round_trip_is_bit_identical(tmp_path, name, dtype):
    given = tensors(name, ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    read = directory.read(make(tmp_path / "hf", name, given))
    rows = {"ids": read.vocab_size, "vocab_size": read.vocab_size, "max_length": 9}
    directory.write(tmp_path / "again", read.config, read.params, **rows, facts=read.facts)
    config, weights = files(name)
    found = load_file(tmp_path / "again" / weights)
    assert found.keys() == given.keys()
    assert all(found[key].dtype == given[key].dtype and found[key].shape == given[key].shape for key in given)
    assert all(found[key].tobytes() == given[key].tobytes() for key in given)
    assert written(tmp_path / "again", config) == ALL[name] | ({} if name == "coca" else {"dtype": dtype})
    # As if it had never been theirs.
    directory.write(tmp_path / "ours", read.config, read.params, **rows)
    again = directory.read(tmp_path / "ours")
    assert again.config == read.config and equal(again.params, read.params)


@pytest.mark.parametrize("name", ALL)
def test_there_and_back(tmp_path, name):
    said = []
    source = make(tmp_path / "hf", name)
    import_model(source, tmp_path / "run", say=said.append)
    run = load(tmp_path / "run")
    about, vocabulary = run.about, run.tokenizer.vocabulary
    assert about.images.mean == (0.4, 0.5, 0.6) and about.images.size == 12 and about.vocabulary == vocabulary
    assert run.config.data.length == 9 and (run.config.objective.begins == (name != "siglip"))
    tokens = np.full((2, 9), vocabulary.special("pad"), np.int32)
    tokens[:, :4] = [[256, 65, 66, 257 if name != "siglip" else 256], [256, 70, 71, 257 if name != "siglip" else 256]]
    found = run.outputs({"image": PICTURES, "tokens": tokens}, ["image", "text", "scale"])
    assert found["image"].shape == found["text"].shape and found["scale"] > 0
    assert run.loss({"image": PICTURES, "tokens": tokens})["loss"] > 0
    export_model(tmp_path / "run", tmp_path / "out", say=said.append)
    config, weights = files(name)
    given, back = tensors(name), load_file(tmp_path / "out" / weights)
    assert back.keys() == given.keys() and all(back[key].tobytes() == given[key].tobytes() for key in given)
    assert written(tmp_path / "out", config) == ALL[name] | ({} if name == "coca" else {"dtype": "float32"})
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (source / "tokenizer.json").read_bytes()
    card = (tmp_path / "out" / "README.md").read_text()
    assert "means 0.4000, 0.5000, 0.6000" in card and "vocabulary 25" in card and "Licence: not stated" in card
    assert any("name your own (config.data)" in line for line in said)


@pytest.mark.parametrize("name, stood", [("siglip", 256), ("coca", 0)])
def test_padding_that_is_no_token_of_the_file(tmp_path, name, stood):
    """Its row is that of the token that the model was trained with in its place, as the text tower sees it."""
    said = []
    import_model(make(tmp_path / "hf", name), tmp_path / "run", say=said.append)
    run = load(tmp_path / "run")
    pad, table = run.tokenizer.vocabulary.special("pad"), np.asarray(run.params["text"]["token"]["table"])
    assert pad not in range(257) and np.array_equal(table[pad], table[stood]) and table[pad].any()
    assert f"captions are filled up with id {pad}, whose row is that of id {stood}" in "\n".join(said)
    # Trained apart from it, it has no form there.
    changed = table.copy()
    changed[pad] += 1
    params = {**run.params, "text": {**run.params["text"], "token": {"table": changed}}}
    with pytest.raises(ConfigError, match="padding") as caught:
        interop_of_pairs.write(
            dataclasses.replace(run, params=params),
            tmp_path / "out",
            written(tmp_path / "run", "imported.json"),
            tmp_path / "run" / "tokenizer.json",
        )
    assert "trained apart" in caught.value.why and not (tmp_path / "out").exists()


def test_special_tokens_that_are_others(tmp_path):
    values = copy.deepcopy(CLIP)
    values["text_config"]["eos_token_id"] = 256
    with pytest.raises(DataError, match="ends with another token") as caught:
        import_model(make(tmp_path / "clip", "clip", values=values), tmp_path / "run", say=quiet)
    assert "'eos' is id 257" in caught.value.why and not (tmp_path / "run").exists()
    specials = ("<pad>", "</s>")  # the model fills up with what is padding's name here, and that is not its first id
    arrays = tensors("siglip")
    table = "text_model.embeddings.token_embedding.weight"
    arrays[table] = np.concatenate([arrays[table], arrays[table][:1]])
    values = copy.deepcopy(SIGLIP)
    values["text_config"] |= {"vocab_size": 258, "pad_token_id": 257}
    source = make(tmp_path / "siglip", "siglip", arrays, values, specials)
    with pytest.raises(DataError, match="fills captions up with another token"):
        import_model(source, tmp_path / "run", say=quiet)
    values["text_config"]["pad_token_id"] = 256
    import_model(make(tmp_path / "siglip", "siglip", arrays, values, specials), tmp_path / "run", say=quiet)


def test_the_end_in_old_files_is_the_highest_id(tmp_path):
    values = copy.deepcopy(CLIP)
    values["text_config"]["eos_token_id"] = 2
    read = directory.read(make(tmp_path / "hf", "clip", values=values))
    assert read.config.end == 257
    directory.write(tmp_path / "out", read.config, read.params, ids=258, vocab_size=258, max_length=9)
    assert written(tmp_path / "out")["text_config"]["eos_token_id"] == 257


def test_sections_of_old_files(tmp_path):
    """What is called text_config_dict counts, and says nothing new of generation."""
    values = copy.deepcopy(CLIP) | {"vision_config_dict": None}
    values["text_config_dict"], values["text_config"] = values["text_config"], {"hidden_size": 512, "num_beams": 1}
    read = directory.read(make(tmp_path / "hf", "clip", values=values))
    assert read.config.model.text.width == 16 and read.vocab_size == 258


def changed(name, *path, value):
    values = copy.deepcopy(ALL[name])
    node = values
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return values


@pytest.mark.parametrize(
    ("name", "path", "value", "says"),
    [
        ("clip", ("text_config", "use_rotary"), True, "use_rotary: unknown"),
        ("clip", ("text_config", "hidden_act"), "mish", "hidden_act: 'mish' is not supported"),
        ("clip", ("vision_config", "patch_size"), 5, "patch_size: 5 does not divide image_size 12"),
        ("clip", ("text_config", "num_attention_heads"), 3, "3 does not divide hidden_size 16"),
        ("clip", ("projection_dim",), 11, r"text_projection.weight: .10, 16., expected .11, 16."),
        ("siglip", ("vision_config", "vision_use_head"), False, "vision_use_head: false is another model"),
        ("siglip", ("text_config", "projection_size"), 16, "projection_size: 16, expected vision_config's"),
        ("coca", ("model_cfg", "vision_cfg", "attentional_pool"), "cascade", "attentional_pool: 'cascade'"),
        ("coca", ("model_cfg", "vision_cfg", "no_ln_pre"), True, "no_ln_pre: true"),
        ("coca", ("model_cfg", "text_cfg", "embed_cls"), False, "embed_cls: false"),
        ("coca", ("model_cfg", "text_cfg", "mlp_ratio"), 3.0, "mlp_ratio: MLPs of 48"),
        ("coca", ("model_cfg", "text_cfg", "hf_model_name"), "bert", "hf_model_name: 'bert'"),
        ("coca", ("model_cfg", "multimodal_cfg", "heads"), 4, "heads: 4 is another model"),
        ("coca", ("model_cfg", "vision_cfg", "head_width"), 5, "head_width: 5 does not divide 12"),
        ("coca", ("model_cfg", "vision_cfg", "patch_size"), 5, "patch_size: 5 does not divide 12"),
        ("coca", ("model_cfg", "vision_cfg", "attn_pooler_heads"), 3, "attn_pooler_heads"),
        ("coca", ("model_cfg", "text_cfg", "heads"), 3, "heads: 3 does not divide 16"),
        ("coca", ("model_cfg", "multimodal_cfg", "width"), 12, "width: 12 is another model"),
        ("coca", ("model_cfg", "embed_dim"), 20, "width: 16, expected embed_dim, 20"),
        ("coca", ("preprocess_cfg", "std"), [0.2, 0.0, 0.2], "std: .0.2, 0.0, 0.2., expected 3 numbers"),
    ],
)
def test_a_configuration_that_cannot_be_followed(tmp_path, name, path, value, says):
    with pytest.raises(DataError, match=says):
        directory.read(make(tmp_path, name, values=changed(name, *path, value=value)))


def test_files_that_are_not_there(tmp_path):
    source = make(tmp_path / "hf", "coca")
    (source / "open_clip_model.safetensors").rename(source / "open_clip_pytorch_model.bin")
    with pytest.raises(DataError, match="pickled"):
        directory.read(source)
    source = make(tmp_path / "clip", "clip")
    (source / "tokenizer.json").unlink()
    with pytest.raises(DataError, match=r"no tokenizer\.json"):
        import_model(source, tmp_path / "run", say=quiet)
    assert directory.read(make(tmp_path / "plain", "siglip", pixels=None)).config.images.mean == (0.5, 0.5, 0.5)
    mean = directory.read(make(tmp_path / "bare", "clip", pixels=None)).config.images.mean
    assert mean == (0.48145466, 0.4578275, 0.40821073) and PIXELS["image_mean"] != list(mean)


@pytest.mark.parametrize(
    ("name", "side", "changes", "where"),
    [
        ("clip", "image", {"pool": "mean"}, "config.model.image.pool"),
        ("clip", "text", {"causal": False}, "config.model.text.causal"),
        ("clip", "text", {"activation": "relu_squared"}, "config.model.text.activation"),
        ("siglip", "text", {"pool": "end"}, "config.model.text.pool"),
        ("siglip", "image", {"embedding_norm": True}, "config.model.image.embedding_norm"),
        ("coca", "text", {"shifted_class_mask": False}, "config.model.text.shifted_class_mask"),
        ("coca", "text", {"decoder_block": "paper"}, "config.model.text.decoder_block"),
        ("coca", "image", {"activation": "quick_gelu"}, "config.model.image.activation"),
    ],
)
def test_habits_without_a_form_there(tmp_path, name, side, changes, where):
    read = directory.read(make(tmp_path / "hf", name))
    model = read.config.model
    model = dataclasses.replace(model, **{side: dataclasses.replace(getattr(model, side), **changes)})
    with pytest.raises(ConfigError) as caught:
        directory.write(
            tmp_path / "out", dataclasses.replace(read.config, model=model), {}, ids=9, vocab_size=9, max_length=9
        )
    assert where in caught.value.where and not (tmp_path / "out").exists()


def test_a_picture_tower_without_a_form_there(tmp_path):
    from pretrainx.models.resnet import ResNetConfig

    read = directory.read(make(tmp_path / "hf", "clip"))
    model = dataclasses.replace(read.config.model, image=ResNetConfig())
    with pytest.raises(ConfigError, match="no form as CLIPModel") as caught:
        directory.fitting(dataclasses.replace(read.config, model=model))
    assert caught.value.where == "config.model.image.name"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["clip", "coca"])
def test_a_trained_run_is_exported_with_its_own_pixels(tmp_path, name):
    """An imported model trained on on other pairs, exported and imported again: the parameters that training ended with."""
    import_model(make(tmp_path / "hf", name), tmp_path / "run", say=quiet)
    recipe = written(tmp_path / "run")
    recipe["data"] |= {"limit": 16, "held_out": 0.25}
    recipe |= {"init_from": str(tmp_path / "run"), "train": {"steps": 1, "batch_size": 8}, "evals": {"limit": 8}}
    recipe["evals"] |= {"representations": {"pictures": 0}, "image_text": {"limit": 8, "pictures": 0, "written": 0}}
    recipe["schedule"]["warmup"] = 0
    assert train(recipe, tmp_path / "on", say=quiet) == 0
    warned = [event for event in read_lines(tmp_path / "on" / "events.jsonl") if event["kind"] == "warning"]
    assert not [event for event in warned if "initialised" in event["text"]]
    run = load(tmp_path / "on")
    assert run.about.images.mean != (0.4, 0.5, 0.6)
    if name == "coca":  # its padding is in no file, and was trained
        with pytest.raises(ConfigError, match="padding"):
            export_model(tmp_path / "on", tmp_path / "out", say=quiet)
        return
    export_model(tmp_path / "on", tmp_path / "out", say=quiet)
    again = directory.read(tmp_path / "out", run.tokenizer.vocabulary.size)
    assert again.config.images == dataclasses.replace(run.about.images, classes=())
    real = lambda path, leaf: np.asarray(leaf)[:258] if path == "text/token/table" else np.asarray(leaf)
    assert equal(*(paths.map_leaves(real, params) for params in (again.params, run.params)))
    card = (tmp_path / "out" / "README.md").read_text()
    assert "8 pairs" in card and "data: shapes" in card and "A dual encoder of pictures and captions (CLIP)" in card
