"""Before a run with experts starts: what the mesh axis `expert` refuses, and how many parameters a token goes through."""

import dataclasses
from pathlib import Path

import jax
import pytest

from pretrainx.adapt.mixture_of_denoisers import Denoiser, MixtureOfDenoisersConfig
from pretrainx.cli.config_file import load
from pretrainx.core.errors import ConfigError
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.models.sizes import active_parameters
from pretrainx.runs import parameters
from pretrainx.runs.parts import assemble, lay_out
from pretrainx.runs.recipe import parse

CONFIGS = Path(__file__).parents[2] / "configs" / "lm"


def recipe(name, *changes):
    return parse(load(f"{CONFIGS / name}:smoke", [("mesh.fsdp", "1"), ("mesh.data", "-1"), *changes]))


@pytest.mark.parametrize(
    ("name", "changes", "why", "do"),
    [
        ("llama_8b.py", (), "4 devices, and the model has no experts", "--config.mesh.expert=1,"),
        ("mixtral_8x7b.py", (("model.experts.count", "6"),), "6 experts over 4 devices", "--config.mesh.expert=2,"),
    ],
)
def test_experts_divide_over_their_axis(name, changes, why, do):
    with pytest.raises(ConfigError, match="the experts do not divide over the mesh axis 'expert'") as caught:
        lay_out(recipe(name, ("mesh.expert", "4"), *changes))
    assert caught.value.where == "config.mesh.expert" and caught.value.why == why and do in caught.value.do


def test_rows_are_divided_by_it_too():
    rules, rows = lay_out(recipe("mixtral_8x7b.py", ("mesh.expert", "4"), ("train.batch_size", "16")))
    assert dict(rules.mesh.shape)["data"] == 2 and rules.batch_ways() == 8 and rows == 2


def test_active_parameters_are_told():
    parts = assemble(recipe("mixtral_8x7b.py"), Vocabulary(320, (("pad", 0), ("eos", 1))), jax.devices()[:1])
    active = active_parameters(parts.objective.model.config, 320, 64)
    assert parameters.lines(parts)[-1] == f"a token goes through {active:,}: 2 of 8 experts in each block"
    assert active < parts.parameters


def test_active_parameters_of_a_mixture_of_tasks_are_told():
    """Two prefix denoisers of one decoder with experts."""
    both = tuple(Denoiser(name, 0.5, "prefix") for name in ("one", "other"))
    plain = recipe("mixtral_8x7b.py")
    several = dataclasses.replace(plain, objective=MixtureOfDenoisersConfig(both))
    vocabulary = Vocabulary(320, (("pad", 0), ("eos", 1)))
    told = [parameters.lines(assemble(each, vocabulary, jax.devices()[:1]))[-1] for each in (plain, several)]
    assert told[0] == told[1]
