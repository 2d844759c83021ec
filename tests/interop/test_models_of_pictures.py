"""Models of pictures in and out, as directories and by the commands: no number is lost, and nothing is guessed."""

import dataclasses
import json

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from pretrainx.core import axes, paths
from pretrainx.core.errors import ConfigError, DataError
from pretrainx.core.images import Images
from pretrainx.core.json_lines import read as read_lines
from pretrainx.interop import directory
from pretrainx.models.layers import Precision
from pretrainx.models.patch_clusters import PatchClusters
from pretrainx.models.patches import patchify, sincos_table
from pretrainx.objectives.augmentation import AugmentConfig
from pretrainx.parallel.mesh import MeshConfig, make_mesh
from pretrainx.parallel.rules import Rules
from pretrainx.runs import interop_of_images
from pretrainx.runs.interop import export_model, import_model
from pretrainx.runs.load import Run, load
from pretrainx.runs.recipe import parse
from pretrainx.runs.train import train

pytestmark = pytest.mark.xdist_group("interop")

COMMON = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 20}
COMMON |= {"hidden_act": "gelu", "layer_norm_eps": 1e-6, "image_size": 12, "patch_size": 4, "num_channels": 3}
COMMON |= {"initializer_range": 0.02, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
NAMES = {"id2label": {"0": "cat", "1": "dog", "2": "owl"}, "label2id": {"cat": 0, "dog": 1, "owl": 2}}
VIT = COMMON | NAMES | {"model_type": "vit", "architectures": ["ViTForImageClassification"], "qkv_bias": True}
BASE = {key: value for key, value in VIT.items() if key not in NAMES} | {"architectures": ["ViTModel"]}
MAE = COMMON | {"model_type": "vit_mae", "architectures": ["ViTMAEForPreTraining"], "qkv_bias": True}
MAE |= {"decoder_hidden_size": 8, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2}
MAE |= {"decoder_intermediate_size": 16, "mask_ratio": 0.7, "norm_pix_loss": True}
BEIT = COMMON | {"model_type": "beit", "architectures": ["BeitForMaskedImageModeling"], "vocab_size": 11}
BEIT |= {"use_mask_token": True, "use_absolute_position_embeddings": False, "use_relative_position_bias": False}
BEIT |= {"use_shared_relative_position_bias": True, "use_mean_pooling": True, "layer_scale_init_value": 0.1}
BEIT |= {"drop_path_rate": 0.1}
SORTS = BEIT | NAMES | {"architectures": ["BeitForImageClassification"], "use_mask_token": False}
ALL = {"vit": VIT, "base": BASE, "mae": MAE, "beit": BEIT, "sorts": SORTS}
PIXELS = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.25], "size": {"height": 12, "width": 12}}
PIXELS |= {"do_resize": True, "resample": 2, "image_processor_type": "ViTImageProcessor"}


def tensors(values, dtype="float32"):
    """Written out independently of the tables under test."""
    rng, kind, width = np.random.default_rng(3), values["model_type"], values["hidden_size"]
    found = {}

    def put(name, *shape):
        found[name] = rng.normal(0, 0.2, shape)

    def layer(name, inputs, outputs, bias=True):
        put(f"{name}.weight", *((outputs, inputs) if inputs else (outputs,)))
        if bias:
            put(f"{name}.bias", outputs)

    def stack(front, depth, width, hidden):
        for number in range(depth):
            block = f"{front}.{number}."
            for name in ("attention.query", "attention.key", "attention.value", "output.dense"):
                layer(f"{block}attention.{name}", width, width, kind != "beit" or name != "attention.key")
            layer(block + "intermediate.dense", width, hidden)
            layer(block + "output.dense", hidden, width)
            layer(block + "layernorm_before", 0, width)
            layer(block + "layernorm_after", 0, width)
            if kind == "beit":
                put(block + "lambda_1", width)
                put(block + "lambda_2", width)

    front = "" if values is BASE else "beit." if kind == "beit" else "vit."
    put(front + "embeddings.cls_token", 1, 1, width)
    put(front + "embeddings.patch_embeddings.projection.weight", width, 3, 4, 4)
    put(front + "embeddings.patch_embeddings.projection.bias", width)
    stack(front + "encoder.layer", values["num_hidden_layers"], width, values["intermediate_size"])
    if kind == "beit":
        put("beit.encoder.relative_position_bias.relative_position_bias_table", 28, 3)
        if values["use_mask_token"]:
            put("beit.embeddings.mask_token", 1, 1, width)
        layer("layernorm" if values is BEIT else "beit.pooler.layernorm", 0, width)
        layer("lm_head" if values is BEIT else "classifier", width, 11 if values is BEIT else 3)
        return {name: array.astype(dtype) for name, array in found.items()}
    layer(front + "layernorm", 0, width)
    put(front + "embeddings.position_embeddings", 1, 10, width)
    if values is VIT:
        layer("classifier", width, 3)
    if kind == "vit_mae":
        found[front + "embeddings.position_embeddings"] = sincos_table(3, 12, True)[None]
        found["decoder.decoder_pos_embed"] = sincos_table(3, 8, True)[None]
        put("decoder.mask_token", 1, 1, 8)
        stack("decoder.decoder_layers", 1, 8, 16)
        layer("decoder.decoder_embed", width, 8)
        layer("decoder.decoder_norm", 0, 8)
        layer("decoder.decoder_pred", 8, 48)
    return {name: array.astype(dtype) for name, array in found.items()}


def make(folder, values, arrays=None, pixels=PIXELS, **changes):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(values | changes))
    if pixels is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(pixels))
    save_file(tensors(values) if arrays is None else arrays, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def written(folder, name="config.json"):
    return json.loads((folder / name).read_text())


def equal(one, other):
    pairs = zip(paths.leaves(one), paths.leaves(other), strict=True)
    return all(a == b and np.array_equal(x, y) for (a, x), (b, y) in pairs)


def test_where_the_numbers_lie(tmp_path):
    given = tensors(MAE)
    read = directory.read(make(tmp_path, MAE)).params
    kernel = read["encoder"]["patches"]["kernel"]
    projection = given["vit.embeddings.patch_embeddings.projection.weight"]
    picture = np.random.default_rng(0).normal(size=(1, 12, 12, 3)).astype(np.float32)
    patch = np.moveaxis(picture[0, 4:8, 8:12], -1, 0)  # the second row's third
    wanted = (projection * patch).sum((1, 2, 3))
    np.testing.assert_allclose((np.asarray(patchify(picture, 4)) @ kernel)[0, 5], wanted, rtol=1e-5)
    query = given["vit.encoder.layer.1.attention.attention.query.weight"]
    assert np.array_equal(read["encoder"]["layers"]["attention"]["query"]["kernel"][1, :, 2], query[8:12].T)
    down = given["decoder.decoder_layers.0.output.dense.weight"]
    assert np.array_equal(read["layers"]["mlp"]["down"]["kernel"][0], down.T)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("values", ALL.values(), ids=ALL)
def test_a_round_trip_is_bit_identical(tmp_path, values, dtype):
    given = tensors(values, ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    read = directory.read(make(tmp_path / "hf", values, given))
    codes = {"ids": read.vocab_size, "vocab_size": read.vocab_size, "max_length": 0}
    directory.write(tmp_path / "again", read.config, read.params, **codes, facts=read.facts)
    found = load_file(tmp_path / "again" / "model.safetensors")
    assert found.keys() == given.keys()
    assert all(found[name].dtype == given[name].dtype for name in given)
    assert all(found[name].tobytes() == given[name].tobytes() for name in given)
    assert written(tmp_path / "again") == values | {"dtype": dtype}
    assert written(tmp_path / "again", "preprocessor_config.json") == PIXELS
    # As if it had never been theirs.
    directory.write(tmp_path / "ours", read.config, read.params, **codes)
    again = directory.read(tmp_path / "ours")
    assert again.config == read.config and equal(again.params, read.params)


@pytest.mark.parametrize("name", ["vit", "base", "mae", "sorts"])
def test_there_and_back(tmp_path, name):
    values, said = ALL[name], []
    import_model(make(tmp_path / "hf", values), tmp_path / "run", say=said.append)
    run = load(tmp_path / "run")
    assert run.about.mean == (0.4, 0.5, 0.6) and run.about.size == 12 and run.tokenizer is None
    assert np.asarray(run.features({"image": np.full((2, 12, 12, 3), 90, np.uint8)})).shape == (2, 12)
    export_model(tmp_path / "run", tmp_path / "out", say=said.append)
    given, found = tensors(values), load_file(tmp_path / "out" / "model.safetensors")
    assert found.keys() == given.keys() and all(found[key].tobytes() == given[key].tobytes() for key in given)
    assert written(tmp_path / "out") == values | {"dtype": "float32"}
    assert written(tmp_path / "out", "preprocessor_config.json") == PIXELS
    assert any("its head here is new" in line for line in said) == (name == "base")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "means 0.4000, 0.5000, 0.6000" in card and "not trained further" in card and "Licence: not stated" in card


def test_codes_without_their_tokenizer_give_features(tmp_path):
    """What names visual tokens that are not in the files is left out, and said; so is what pixels are normalised with."""
    said = []
    import_model(make(tmp_path / "hf", BEIT, pixels=None), tmp_path / "run", say=said.append)
    text = "\n".join(said)
    assert "a visual tokenizer that is not among its files" in text and "there is no preprocessor_config.json" in text
    assert "beit.embeddings.mask_token, lm_head.bias, lm_head.weight" in text
    run, read = load(tmp_path / "run"), directory.read(tmp_path / "hf")
    assert run.about.classes == ("LABEL_0", "LABEL_1") and not np.any(run.params["classes"]["kernel"])
    picture = np.random.default_rng(0).integers(0, 256, (2, 12, 12, 3), dtype=np.uint8)
    network = read.config.model.build(read.config.images, Precision())
    images = (picture / np.float32(255) - 0.5) / 0.5
    hidden = lambda params: network.apply({"params": params}, images)
    np.testing.assert_allclose(run.features({"image": picture}), hidden(read.params["encoder"]), atol=1e-5)


@pytest.mark.parametrize(
    ("values", "changes", "says"),
    [
        (VIT, {"qkv_bias": False}, "qkv_bias: false is another model"),
        (VIT, {"image_size": [12, 12]}, r"image_size: \[12, 12\], expected a whole number"),
        (VIT, {"patch_size": 5}, "patch_size: 5 does not divide image_size 12"),
        (VIT, {"id2label": {"1": "a", "2": "b"}}, "id2label: labels 1, 2, expected 0, 1"),
        (VIT, {"id2label": {"0": "a", "1": "b"}}, "classifier.weight: .3, 12., expected .2, 12."),
        (VIT, {"num_register_tokens": 4}, "num_register_tokens: unknown, 4"),
        (MAE, {"mask_ratio": 1.0}, "mask_ratio: 1.0, expected less than 1"),
        (MAE, {"decoder_hidden_size": 6}, "decoder_hidden_size: 6, positions"),
        (MAE, {"image_size": 16}, "position_embeddings"),
        (BEIT, {"use_mean_pooling": False}, "use_mean_pooling: false"),
        (BEIT, {"use_relative_position_bias": True}, "use_relative_position_bias: true is another model"),
        (BEIT, {"use_absolute_position_embeddings": True}, "use_absolute_position_embeddings: true"),
        (BEIT, {"use_shared_relative_position_bias": False}, "relative_position_bias_table: not used"),
        (BEIT, {"vocab_size": None}, "vocab_size: null, expected a whole number"),
    ],
)
def test_a_configuration_that_cannot_be_followed(tmp_path, values, changes, says):
    with pytest.raises(DataError, match=says):
        directory.read(make(tmp_path, values, **changes))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"do_rescale": False}, "supported: 1/255"),
        ({"rescale_factor": None}, "supported: 1/255"),
        ({"rescale_factor": 1 / 127.5}, "supported: 1/255"),
        ({"image_mean": [0.5]}, "image_mean: .0.5., expected 3 numbers"),
        ({"image_std": [0.5, 0, 0.5]}, "image_std"),
    ],
)
def test_pixels_that_have_no_form_here(tmp_path, changes, says):
    with pytest.raises(DataError, match=says):
        directory.read(make(tmp_path, VIT, pixels=PIXELS | changes))
    raw = directory.read(make(tmp_path, VIT, pixels=PIXELS | {"do_normalize": False})).config.images
    assert raw.mean == (0, 0, 0) and raw.std == (1, 1, 1)


def test_other_tables_are_refused(tmp_path):
    """Fixed positions are constants here; what rounding does to them makes no difference."""
    given, name = tensors(MAE), "vit.embeddings.position_embeddings"
    directory.read(make(tmp_path, MAE, given | {name: given[name] + np.float32(3e-6)}))
    turned = np.concatenate(np.split(given[name], 2, axis=-1)[::-1], -1)  # the row first
    for other in (turned, given[name] + np.float32(3e-5), np.zeros_like(given[name])):
        with pytest.raises(DataError, match="fixed here is another one") as caught:
            directory.read(make(tmp_path, MAE, given | {name: other}))
        assert caught.value.where.endswith(name)
    del given[name]
    with pytest.raises(DataError, match=r"missing, expected \[1, 10, 12\]"):
        directory.read(make(tmp_path, MAE, given))


def test_other_pixels_than_the_source_s(tmp_path):
    """A run that went on with other pictures: the file beside says what these are normalised with."""
    import_model(make(tmp_path / "hf", VIT), tmp_path / "run", say=lambda line: None)
    run = load(tmp_path / "run")
    about = dataclasses.replace(run.about, mean=(0.1, 0.2, 0.3), classes=("a", "b", "c"))
    interop_of_images.write(
        dataclasses.replace(run, about=about), tmp_path / "out", written(tmp_path / "run", "imported.json")
    )
    assert directory.read(tmp_path / "out").config.images == about
    assert written(tmp_path / "out", "preprocessor_config.json")["resample"] == 3
    assert written(tmp_path / "out")["label2id"] == {"a": 0, "b": 1, "c": 2}


MODEL = {"name": "vit", "width": 12, "depth": 1, "heads": 3, "patch": 4}


@pytest.mark.slow
def test_a_trained_run_is_exported_with_its_own_pixels(tmp_path):
    """An imported autoencoder trained on on other pictures: its file of pixels is theirs, its positions are written again."""
    import_model(make(tmp_path / "hf", MAE), tmp_path / "run", say=lambda line: None)
    recipe = written(tmp_path / "run")
    recipe["data"] |= {"limit": 16, "held_out": 0.25}
    recipe |= {"init_from": str(tmp_path / "run"), "train": {"steps": 1, "batch_size": 8}, "evals": {"limit": 8}}
    recipe["evals"]["representations"] = {"pictures": 0}
    recipe["schedule"]["warmup"] = 0
    assert train(recipe, tmp_path / "on", say=lambda line: None) == 0
    warned = [event for event in read_lines(tmp_path / "on" / "events.jsonl") if event["kind"] == "warning"]
    assert not [event for event in warned if "initialised" in event["text"]]
    export_model(tmp_path / "on", tmp_path / "out", say=lambda line: None)
    run, again = load(tmp_path / "on"), directory.read(tmp_path / "out")
    assert again.config.images == dataclasses.replace(run.about, classes=()) and run.about.mean != (0.4, 0.5, 0.6)
    assert equal(again.params, run.params) and again.config.objective.mask_ratio == 0.7
    card = (tmp_path / "out" / "README.md").read_text()
    assert "A masked autoencoder: 2 layers" in card and "8 pictures" in card and "data: shapes" in card


def bare(objective, model, about, **given):
    """A run as `load` returns it, never trained."""
    model = model if "name" in model else MODEL | model
    recipe = {
        "objective": objective,
        "model": model,
        "data": {"name": "images"},
        "train": {"steps": 9, "batch_size": 4},
    }
    recipe["schedule"] = {"name": "cosine", "peak": 1e-4, "warmup": 0}
    recipe = parse(recipe)
    built = recipe.objective.build(recipe.model, about, Precision(), **given)
    key = jax.random.key(0)
    params, extras = jax.jit(lambda: [axes.unbox(x) for x in built.start(key, built.init(key, None), None)])()
    rules = Rules(make_mesh(MeshConfig(), jax.devices()[:1]))
    return recipe, built, params, extras, about, rules


ABOUT = Images(12, 3, ("a", "b"), (0.1, 0.2, 0.3), (0.5, 0.4, 0.3))
HABITS = {"positions": "relative", "mask_token": True, "key_bias": False, "layer_scale": 0.1, "pool": "mean"}


def export(folder, objective, model, **given):
    recipe, built, params, extras, about, rules = bare(objective, model, ABOUT, **given)
    (folder / "run").mkdir(exist_ok=True)
    run = Run(folder / "run", 3, recipe, built, params, extras, about, None, rules, ())
    interop_of_images.write(run, folder / "out", {})
    return params, directory.read(folder / "out")


def test_a_run_of_codes_leaves_its_tokenizer_here(tmp_path):
    objective = {"name": "beit", "min_block": 2, "augment": {"name": AugmentConfig("none").name}}
    params, again = export(tmp_path, objective, HABITS, tokenizer=PatchClusters(ABOUT, 4, 7))
    assert written(tmp_path / "out")["vocab_size"] == again.vocab_size == 7
    assert equal(again.params, params) and again.config.images.mean == (0.1, 0.2, 0.3)
    assert "a visual tokenizer, which is not part of this directory" in (tmp_path / "out" / "README.md").read_text()


def test_of_other_paradigms_the_network_is_exported(tmp_path):
    heads = {"hidden": [8], "out": 4, "head_norm": "none", "views": {"name": "simclr", "size": 8}}
    params, again = export(tmp_path, {"name": "simclr", **heads}, {"positions": "sincos"})
    assert written(tmp_path / "out")["architectures"] == ["ViTModel"]
    table = again.params["backbone"].pop("position")["table"]
    np.testing.assert_allclose(table, sincos_table(2, 12, True), atol=1e-7)
    assert (
        again.config.images.size == 8 and written(tmp_path / "out", "preprocessor_config.json")["size"]["height"] == 8
    )
    assert equal(again.params, {"backbone": params["backbone"]})
    assert "its heads stay with the run" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize(
    ("objective", "model", "where"),
    [
        ({"name": "classification"}, {"pool": "mean"}, "config.model.pool"),
        ({"name": "classification"}, {"positions": "none", "layer_scale": 0.1}, "config.model.key_bias"),
        ({"name": "mae", "decoder_width": 8, "decoder_heads": 2}, {"positions": "learned"}, "config.model.positions"),
        ({"name": "classification"}, {"name": "resnet", "stages": [1], "width": 4}, "config.model.name"),
    ],
)
def test_habits_without_a_form_there(tmp_path, objective, model, where):
    with pytest.raises(ConfigError) as caught:
        export(tmp_path, objective, model)
    assert where in caught.value.where and not (tmp_path / "out").exists()
