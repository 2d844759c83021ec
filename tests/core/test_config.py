"""Strict configs: every bad value is refused with its path, all at once, and nothing good is refused."""

import json
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict

from pretrainx.core.config import ABSENT, as_dict, difference, parse
from pretrainx.core.errors import ConfigError


@dataclass(frozen=True)
class Adam:
    learning_rate: float = field(default=1e-3, metadata={"above": 0})
    betas: tuple[float, float] = (0.9, 0.95)


@dataclass(frozen=True)
class Momentum:
    learning_rate: float = field(default=0.1, metadata={"above": 0})
    momentum: float = field(default=0.9, metadata={"min": 0, "below": 1})


@dataclass(frozen=True)
class HeldOut:
    every: int = field(default=100, metadata={"min": 1})


@dataclass(frozen=True)
class Probe:
    every: int = 100
    layers: tuple[int, ...] = ()


@dataclass(frozen=True)
class Model:
    width: int = field(default=64, metadata={"min": 1})
    heads: int = field(default=4, metadata={"min": 1})
    remat: str = field(default="none", metadata={"choices": ("none", "full")})
    dropout: float = field(default=0.0, metadata={"min": 0, "max": 0.9})

    def __post_init__(self):
        if self.width % self.heads:
            raise ConfigError(f"width {self.width} is not divided by heads {self.heads}", do="change one")


@dataclass(frozen=True)
class Train:
    steps: int = field(metadata={"min": 1})
    batch_size: int = field(default=8, metadata={"min": 1})
    grad_clip: float | None = field(default=1.0, metadata={"above": 0})
    log_every: int | str = 10


@dataclass(frozen=True)
class Source:
    path: str
    weight: float = 1.0


OPTIMIZERS = {"adam": Adam, "momentum": Momentum}
EVALS = {"held_out": HeldOut, "probe": Probe}


@dataclass(frozen=True)
class Run:
    train: Train
    seed: int = 0
    debug: bool = False
    note: str | None = None
    model: Model = Model(width=32)
    optimizer: Any = field(default=Momentum(), metadata={"table": OPTIMIZERS, "default_name": "adam"})
    adapt: Any | None = field(default=None, metadata={"table": OPTIMIZERS})
    evals: tuple[Any, ...] = field(default=(), metadata={"table": EVALS})
    sources: tuple[Source, ...] = ()
    lengths: tuple[int, ...] = field(default=(), metadata={"min": 1})


GOOD = {"train": {"steps": 5}}


def lines(values) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(Run, values)
    assert caught.value.exit_code == 2
    return caught.value.why.split("\n")


# (change over GOOD as a dotted key, value, the path that must be named, words that must be there)
BAD = [
    ("train.stepz", 3, "config.train.stepz", "did you mean 'steps'?"),
    ("trian", {}, "config.trian", "did you mean 'train'?"),
    ("sed", 1, "config.sed", "'seed'"),
    ("model.widht", 1, "config.model.widht", "'width'"),
    ("optimizer.learning_rat", 1.0, "config.optimizer.learning_rat", "'learning_rate'"),
    ("learning_rate", 1.0, "config.learning_rate", "a key of config.optimizer"),
    ("train.seed", 1, "config.train.seed", "'seed' is a key of config"),
    ("model.steps", 1, "config.model.steps", "'steps' is a key of config.train"),
    ("optimizer.betas", [0.9, 0.9], "config.optimizer.betas", "name 'adam'"),
    ("train.zzz", 1, "config.train.zzz", "known: batch_size"),
    ("train.steps", 1000.0, "config.train.steps", "write 1000"),
    ("train.steps", 1e3, "config.train.steps", "write 1000"),
    ("train.steps", 0.5, "config.train.steps", "expected an integer; got 0.5"),
    ("train.steps", "1000", "config.train.steps", "write 1000 without quotes"),
    ("train.steps", "many", "config.train.steps", "expected an integer"),
    ("train.steps", True, "config.train.steps", "expected an integer"),
    ("train.steps", None, "config.train.steps", "got None"),
    ("train.steps", [5], "config.train.steps", "expected an integer"),
    ("train.steps", {"a": 1}, "config.train.steps", "expected an integer"),
    ("train.steps", 0, "config.train.steps", "below the least value 1"),
    ("train.steps", -5, "config.train.steps", "below the least value 1"),
    ("train.steps", math.nan, "config.train.steps", "finite"),
    ("train.steps", 5 + 0j, "config.train.steps", "expected an integer"),
    ("train.batch_size", False, "config.train.batch_size", "expected an integer"),
    ("train.grad_clip", 0, "config.train.grad_clip", "must be above 0"),
    ("train.grad_clip", "none", "config.train.grad_clip", "expected a number"),
    ("train.grad_clip", math.nan, "config.train.grad_clip", "finite"),
    ("train.grad_clip", math.inf, "config.train.grad_clip", "finite"),
    ("train.grad_clip", 10**400, "config.train.grad_clip", "too large"),
    ("train.log_every", 1.5, "config.train.log_every", "an integer or a string"),
    ("train.log_every", None, "config.train.log_every", "an integer or a string"),
    ("train", 3, "config.train", "expected a section with the keys steps"),
    ("train", None, "config.train", "expected a section"),
    ("train", [1], "config.train", "expected a section"),
    ("train", {}, "config.train.steps", "missing"),
    ("seed", "0", "config.seed", "write 0 without quotes"),
    ("seed", 1.0, "config.seed", "write 1"),
    ("debug", 1, "config.debug", "true or false"),
    ("debug", "true", "config.debug", "true or false"),
    ("debug", None, "config.debug", "true or false"),
    ("note", 3, "config.note", "expected a string"),
    ("note", b"x", "config.note", "expected a string"),
    ("note", ["x"], "config.note", "expected a string"),
    ("model.remat", "ful", "config.model.remat", "did you mean 'full'?"),
    ("model.remat", "", "config.model.remat", "known: full, none"),
    ("model.remat", True, "config.model.remat", "expected a string"),
    ("model.dropout", 1, "config.model.dropout", "above the largest value 0.9"),
    ("model.dropout", -0.1, "config.model.dropout", "below the least value 0"),
    ("model.dropout", "0.1", "config.model.dropout", "write 0.1 without quotes"),
    ("model.dropout", True, "config.model.dropout", "expected a number"),
    ("model.heads", 3, "config.model", "width 32 is not divided by heads 3"),
    ("model", "decoder", "config.model", "expected a section"),
    ("optimizer.name", "adan", "config.optimizer.name", "did you mean 'adam'?"),
    ("optimizer.name", 3, "config.optimizer.name", "unknown name 3"),
    ("optimizer", "adam", "config.optimizer", "{'name': 'adam'}"),
    ("optimizer", None, "config.optimizer", "expected a section"),
    ("optimizer", {"name": "adam", "momentum": 0.9}, "config.optimizer.momentum", "name 'momentum'"),
    ("optimizer", {"name": "adam", "betas": [0.9]}, "config.optimizer.betas", "got 1 items"),
    ("optimizer", {"name": "adam", "betas": 0.9}, "config.optimizer.betas", "a list of 2"),
    ("optimizer", {"name": "adam", "betas": "ab"}, "config.optimizer.betas", "a list of 2"),
    ("optimizer", {"name": "adam", "betas": [0.9, "b"]}, "config.optimizer.betas[1]", "expected a number"),
    ("optimizer", {"learning_rate": 0.0}, "config.optimizer.learning_rate", "must be above 0"),
    ("optimizer", {"name": "momentum", "momentum": 1.0}, "config.optimizer.momentum", "must be below 1"),
    ("adapt", {}, "config.adapt.name", "one of adam, momentum"),
    ("adapt", {"learning_rate": 1.0}, "config.adapt.name", "missing"),
    ("evals", {"name": "held_out"}, "config.evals", "expected a list"),
    ("evals", [{"name": "heldout"}], "config.evals[0].name", "did you mean 'held_out'?"),
    ("evals", [{"name": "probe"}, {"name": "held_out", "evry": 3}], "config.evals[1].evry", "'every'"),
    ("evals", [{"name": "held_out", "every": 0}], "config.evals[0].every", "below the least"),
    ("evals", ["held_out"], "config.evals[0]", "expected a section"),
    ("sources", [{"weight": 2}], "config.sources[0].path", "missing"),
    ("sources", [{"path": "a"}, {"path": 1}], "config.sources[1].path", "expected a string"),
    ("lengths", [4, 0], "config.lengths[1]", "below the least value 1"),
    ("lengths", "44", "config.lengths", "expected a list"),
    ("lengths", 4, "config.lengths", "expected a list"),
    ("lengths", [True], "config.lengths[0]", "expected an integer"),
]


@pytest.mark.parametrize("key, value, path, words", BAD, ids=[f"{row[0]}={row[1]!r:.30}" for row in BAD])
def test_a_bad_value_is_refused_with_its_path(key, value, path, words):
    values = json.loads(json.dumps(GOOD))
    *sections, last = key.split(".")
    node = values
    for section in sections:
        node = node.setdefault(section, {})
    node[last] = value
    found = lines(values)
    assert len(found) == 1, found
    assert found[0].startswith(path + ": ") and words in found[0]


def test_all_problems_are_told_at_once():
    values = {
        "train": {"stepz": 3, "batch_size": "8"},
        "optimizer": {"name": "sdg"},
        "evals": [{"name": "probe", "layers": [1, 2.0]}],
        "modle": {},
    }
    found = [line.split(": ")[0] for line in lines(values)]
    assert sorted(found) == [
        "config.evals[0].layers[1]",
        "config.modle",
        "config.optimizer.name",
        "config.train.batch_size",
        "config.train.steps",
        "config.train.stepz",
    ]


def test_keys_that_are_not_strings_and_roots_that_are_no_mapping():
    assert "not a string" in lines({**GOOD, 3: 1})[0]
    assert "expected a section" in lines(None)[0]
    assert "expected a section" in lines("config.py")[0]


GOODS = [
    {"train": {"steps": 5}},
    {"train": {"steps": np.int64(5), "grad_clip": None, "log_every": "auto"}, "note": "", "lengths": (1, 2)},
    {"train": {"steps": 5, "grad_clip": 2}, "optimizer": {"name": "adam", "betas": [0, 1]}, "adapt": {"name": "adam"}},
    {"train": {"steps": 5}, "evals": ({"name": "probe", "layers": [1]}, {"name": "held_out"}), "debug": True},
    {"train": {"steps": 5}, "sources": [{"path": "a"}, {"path": "b", "weight": 0.5}], "model": {"heads": 2}},
]


@pytest.mark.parametrize("values", GOODS, ids=range(len(GOODS)))
def test_a_good_config_goes_through_json_and_back(values):
    run = parse(Run, values)
    text = json.dumps(as_dict(run), allow_nan=False)
    assert parse(Run, json.loads(text)) == run
    assert hash(parse(Run, json.loads(text))) == hash(run)


def test_types_and_defaults_of_a_parsed_config():
    run = parse(Run, ConfigDict({"train": {"steps": 5, "grad_clip": 2}, "lengths": [3], "optimizer": {"momentum": 0}}))
    assert type(run.train.grad_clip) is float and run.lengths == (3,)
    # The key `name` is left out: the default instance says which, and gives the other keys.
    assert run.optimizer == Momentum(learning_rate=0.1, momentum=0.0)
    assert parse(Run, {**GOOD, "model": {"heads": 8}}).model == Model(width=32, heads=8)
    assert parse(Run, {**GOOD, "optimizer": {"name": "adam"}}).optimizer == Adam()


def test_default_name_of_a_table_without_a_default():
    @dataclass(frozen=True)
    class Holder:
        optimizer: Any = field(metadata={"table": OPTIMIZERS, "default_name": "adam"})

    assert parse(Holder, {}).optimizer == Adam()
    assert as_dict(parse(Holder, {}))["optimizer"]["name"] == "adam"


def test_difference_names_paths_and_both_values():
    first = as_dict(parse(Run, {**GOOD, "evals": [{"name": "held_out"}]}))
    other = {"train": {"steps": 6}, "optimizer": {"name": "adam"}, "evals": [{"name": "held_out", "every": 7}]}
    assert difference(first, as_dict(parse(Run, other))) == [
        ("evals[0].every", 100, 7),
        ("optimizer.betas", ABSENT, [0.9, 0.95]),
        ("optimizer.learning_rate", 0.1, 1e-3),
        ("optimizer.momentum", 0.9, ABSENT),
        ("optimizer.name", "momentum", "adam"),
        ("train.steps", 5, 6),
    ]
    assert difference(first, first) == []


def test_a_schema_that_has_no_strict_reading_is_a_fault_of_the_program():
    @dataclass(frozen=True)
    class Loose:
        anything: Any = None

    with pytest.raises(TypeError, match="anything"):
        parse(Loose, {"anything": 1})


def test_no_value_is_the_choice_none():
    """What `--config.model.remat=none` is read as; where there is no such choice it stays an error."""
    run = parse(Run, {"train": {"steps": 1}, "model": {"remat": None}})
    assert run.model.remat == "none"
    with pytest.raises(ConfigError, match="expected a whole number|expected an integer"):
        parse(Run, {"train": {"steps": 1}, "model": {"width": None}})
