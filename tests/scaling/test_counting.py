"""Parameters and FLOPs of a run of any paradigm, from its configuration alone."""

import dataclasses
import math
from pathlib import Path

import pytest

from pretrainx.cli.config_file import load
from pretrainx.core import axes, paths
from pretrainx.models.coca import CocaConfig
from pretrainx.models.sizes_conventions import CONVENTIONS
from pretrainx.models.sizes_vision import vit_flops_per_image
from pretrainx.runs import assumed
from pretrainx.runs.parts import build
from pretrainx.runs.recipe import parse
from pretrainx.scaling import counting
from pretrainx.scaling.counting import count
from pretrainx.training import state as states
from scaling.small_programs import ENCODER, PARADIGMS, ROWS, TEXT, recipe_of

ROOT = Path(__file__).parents[2]
TRACED = ("vq_vae", "dvae")
CONFIGS = [
    *(f"lm/{name}.py" for name in ("gpt2_124m", "llama_1b", "mixtral_8x7b")),
    *(f"mlm/{name}.py" for name in ("bert_base", "modern_bert_small", "roberta_base")),
    *(f"seq2seq/{name}.py" for name in ("t5_small", "t5_base_v1_1", "bart_base", "ul2_small")),
    *(f"vision/{path.name}" for path in sorted((ROOT / "configs/vision").glob("*.py"))),
    *(f"image_text/{path.name}" for path in sorted((ROOT / "configs/image_text").glob("*.py"))),
]


def per_row(found):
    return found.flops[counting.MODEL] * found.units_per_row


def leaves_of(recipe, about):
    """{path: (axis names, how many numbers, the padding of vocabularies not counted)} of what would be initialised."""
    found = states.layout(build(recipe, about), recipe.train.batch_size)
    predicted = getattr(getattr(about, "vocabulary", about), "predicted", None)
    sizes, names = dict(paths.leaves(found.params)), dict(found.params_axes)
    number = lambda path: math.prod(
        predicted if name == "vocab" and predicted else size
        for name, size in zip(names[path], sizes[path].shape, strict=True)
    )
    return {path: (names[path], number(path)) for path in sizes}


def check_against_leaves(recipe, about):
    """Of models of words the parts too, by the leaves' roles."""
    leaves, found = leaves_of(recipe, about), count(recipe, about).parameters
    assert found["total"] == sum(number for _, number in leaves.values())
    if "with_head" not in found:
        return
    looked_up = sum(number for names, number in leaves.values() if axes.role(names) == "embedding")
    if getattr(recipe.model, "tied", False):
        looked_up -= sum(number for path, (names, number) in leaves.items() if path.startswith("token/"))
    assert found["with_head"] == found["total"] - looked_up
    of_words = sum(number for names, number in leaves.values() if "vocab" in names)
    others = sum(
        number for names, number in leaves.values() if "vocab" not in names and axes.role(names) == "embedding"
    )
    assert found["without_vocabulary"] == found["total"] - of_words - others
    if isinstance(recipe.model, CocaConfig):
        return  # of whose hidden weights some are a picture's, outside of any stack
    kernels = {
        path: number for path, (names, number) in leaves.items() if "layers" in names and path.endswith("kernel")
    }
    experts = sum(number for path, number in kernels.items() if "experts" in leaves[path][0])
    config = recipe.model.experts
    idle = experts * (config.count - config.chosen) // config.count if experts else 0
    assert found["hidden"] == sum(kernels.values()) - idle and found["active"] == found["total"] - idle


@pytest.mark.parametrize(
    "name",
    [
        "masked_lm",
        *(
            pytest.param(name, marks=[pytest.mark.slow, pytest.mark.rotated])
            for name in PARADIGMS
            if name != "masked_lm"
        ),
    ],
)
def test_parameters_are_those_of_the_leaves(name):
    check_against_leaves(*recipe_of(name))


@pytest.mark.slow
@pytest.mark.rotated
@pytest.mark.parametrize("config", CONFIGS)
def test_parameters_of_recipes_are_those_of_the_leaves(config):
    about, recipe, _ = assumed.about(parse(load(str(ROOT / "configs" / config))))
    check_against_leaves(recipe, about)


@pytest.mark.parametrize("name", [name for name in PARADIGMS if name not in TRACED])
def test_nothing_is_traced_to_count(name, monkeypatch):
    """A search for shapes counts hundreds of models."""
    monkeypatch.setattr(states, "layout", None)
    recipe, about = recipe_of(name)
    found, objective = count(recipe, about), build(recipe, about)
    assert per_row(found) == pytest.approx(objective.flops_per_row(), rel=1e-12)
    assert found.unit == ("token" if recipe.data.__class__.__name__ == "TextConfig" else "picture")
    assert found.parameters["total"] >= found.parameters["active"] > found.parameters["hidden"] > 0


def test_conventions_are_named_where_they_mean_something():
    flops = {
        name: count(*recipe_of(name)).flops
        for name in ("autoregressive", "masked_lm", "span_corruption", "mae", "clip")
    }
    assert flops["autoregressive"].keys() == {"model", *CONVENTIONS}
    assert flops["autoregressive"]["model"] == flops["autoregressive"]["matmul_causal"]
    assert flops["masked_lm"].keys() == {"model", "6n", "6n_hidden", "palm", "matmul_full", "deepseek"}
    assert flops["span_corruption"].keys() == {"model", "matmul_full"}
    assert flops["mae"].keys() == flops["clip"].keys() == {"model"}


def test_marks_around_a_row_are_no_training_tokens():
    """6 N D with the D that the data bring; the model computes on the marks all the same."""
    found = count(*recipe_of("masked_lm"))
    assert found.units_per_row == 62 and found.flops["6n"] == 6 * found.parameters["total"]
    bare = ENCODER | {"head": "linear"}
    small = count(*recipe_of("masked_lm", model=bare, objective={"name": "masked_lm", "special_tokens": False}))
    assert small.units_per_row == 64
    less = ENCODER["width"] ** 2 + 3 * ENCODER["width"]
    assert found.parameters["total"] - small.parameters["total"] == less
    more = count(*recipe_of("masked_lm", objective={"name": "masked_lm", "mask_fraction": 0.3, "selection": "exact"}))
    few = count(*recipe_of("masked_lm", objective={"name": "masked_lm", "mask_fraction": 0.15, "selection": "exact"}))
    head = ENCODER["width"] * (ENCODER["width"] + recipe_of("masked_lm")[1].size)
    assert per_row(more) - per_row(few) == (round(0.3 * 64) - round(0.15 * 64)) * 6 * head


def test_what_a_prefix_sees():
    """Its own tokens in both directions, at every place where a row may be split."""
    recipe, about = recipe_of("prefix_lm")
    found, length, width, depth = count(recipe, about), TEXT["length"], recipe.model.width, recipe.model.depth
    seen = [sum(max(prefix, place) for place in range(1, length + 1)) for prefix in range(1, length)]
    scores = 12 * depth * width * sum(seen) / len(seen)
    assert per_row(found) == pytest.approx(length * found.flops["6n_products"] + scores, rel=1e-12)


def test_heads_of_views():
    """Projector and predictor of the student, the projector of the teacher, forward only."""
    recipe, about = recipe_of("byol")
    objective = build(recipe, about)
    projector, predictor = ((recipe.model.width, 4096, 256), (256, 4096, 256))
    weights = lambda widths: sum(a * b for a, b in zip(widths, widths[1:], strict=False))
    backbone = vit_flops_per_image(recipe.model, 32)
    per_view = (backbone + 6 * weights(projector)) * 4 / 3 + 6 * weights(predictor)
    assert per_row(count(recipe, about)) == pytest.approx(2 * per_view)
    without = dataclasses.replace(objective.model, predictor=None)
    assert dataclasses.replace(objective, model=without).flops_per_row() == pytest.approx(
        2 * per_view - 12 * weights(predictor)
    )


@pytest.mark.slow
def test_adapted_models_are_counted_by_their_leaves():
    """Total and trained parameters; their FLOPs are not counted."""
    model = {"name": "decoder", "width": 32, "depth": 2, "heads": 2}
    recipe, about = recipe_of("autoregressive", model=model, adapt={"name": "lora", "rank": 3})
    found, plain = count(recipe, about), count(*recipe_of("autoregressive", model=model))
    assert found.parameters["total"] - plain.parameters["total"] == found.parameters["trained"] > 0
    assert found.flops == {} and found.unit == "token"


def test_counts_of_several_tasks():
    """One model, and of FLOPs the mean over tasks by their shares of the rows."""
    found = count(*recipe_of("mixture_of_denoisers"))
    alone = count(*recipe_of("span_corruption"))
    assert found.parameters == alone.parameters and found.flops["matmul_full"] > found.flops["model"] > 0
    assert counting.MODEL in found.flops and found.units_per_row != alone.units_per_row
    assert ROWS * per_row(found) > 0
