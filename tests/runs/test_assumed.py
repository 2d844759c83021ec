"""What a plan assumes of data is what data of that configuration say of themselves, as far as they do not decide it."""

from pathlib import Path

import pytest

from pretrainx.cli.config_file import load
from pretrainx.core import paths
from pretrainx.data.labelled import LabelledConfig
from pretrainx.data.text import TextConfig
from pretrainx.data.tokenizer import Tokenizer
from pretrainx.runs import assumed
from pretrainx.runs.parts import build
from pretrainx.runs.recipe import parse
from pretrainx.scaling.study import split

CONFIGS = Path(__file__).parents[2] / "configs"
TEXTS = [
    f"{number * 7919} is a number with {number} in it, written out" for number in range(400)
]  # pairs enough to merge


@pytest.mark.parametrize("specials, sentinels", [((), 0), (("mask", "cls", "sep"), 0), (("bos",), 5)])
def test_vocabularies_are_as_tokenizers_number_them(specials, sentinels):
    notes = []
    of_bytes = TextConfig(tokenizer="bytes", specials=specials, sentinels=sentinels)
    real = Tokenizer.of_bytes(specials, sentinels).vocabulary
    found = assumed.vocabulary(of_bytes, notes)
    assert (found.size, set(found.specials), found.sentinels) == (real.size, set(real.specials), real.sentinels)
    trained = TextConfig(vocab_size=280, specials=specials, sentinels=sentinels)
    real = Tokenizer.train(TEXTS, 280, specials, sentinels).vocabulary
    found = assumed.vocabulary(trained, notes)
    assert (found.size, set(found.specials), found.sentinels) == (real.size, set(real.specials), real.sentinels)
    assert not notes


def test_a_tokenizer_from_a_file(tmp_path):
    """It is read where it is there; else its size is that of the configuration, which is said."""
    path = tmp_path / "tokenizer.json"
    Tokenizer.of_bytes(("mask",)).save(path)
    notes = []
    assert assumed.vocabulary(TextConfig(tokenizer=str(path)), notes) == Tokenizer.load(path).vocabulary and not notes
    absent = assumed.vocabulary(TextConfig(tokenizer="nowhere.json", vocab_size=5000), notes)
    assert absent.size == 5000 and dict(absent.specials)["cls"] < 5000 and "5,000 ids" in notes[0]


def test_labels():
    notes = []
    found = assumed.labelled(LabelledConfig(paths=("x.csv",), source="csv", second="b"), notes)
    assert found.pairs and len(found.classes) == 2 and "2 classes" in notes[0]
    assert assumed.labelled(LabelledConfig(paths=("x.csv",), source="csv", target="number"), []).classes == ()


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.py")), ids=lambda path: path.stem)
def test_every_recipe_is_a_model_without_its_data(path):
    """The full recipe's objective, whose data nobody has here."""
    about, recipe, _ = assumed.about(parse(split(load(str(path)))[0]))
    objective = build(recipe, about)
    valid = [leaf for path, leaf in paths.leaves(objective.batch_spec(4)) if path.split("/")[-1] == "valid"]
    assert valid and all(leaf.dtype == bool for leaf in valid) and sum(leaf.shape[0] for leaf in valid) == 4
