"""What evaluations of perils take from runs: rows that were read, runs that are comparable, one model without wrappers."""

from types import SimpleNamespace

import numpy as np
import pytest

from contract.cases import text
from pretrainx.adapt.distill import DistillConfig
from pretrainx.adapt.ewc import EwcConfig
from pretrainx.adapt.prompt import PromptConfig
from pretrainx.core.errors import ConfigError
from pretrainx.core.images import Images
from pretrainx.core.records import ImageRows, TextRows
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.data.prepared_images import PictureRows
from pretrainx.data.rows import MixedRows, TrainingRows
from pretrainx.evals.membership import MembershipConfig
from pretrainx.objectives.autoregressive import Autoregressive
from pretrainx.runs import perils
from pretrainx.runs.load import Run
from pretrainx.runs.preserved import leaves_of, write_fisher
from pretrainx.runs.recipe import InitConfig
from pretrainx.runs.starting_point import Start

BATCH = 8


def numbered(first, count):
    """Pictures of one pixel, which is their number."""
    return PictureRows(np.arange(first, first + count, dtype=np.uint8)[:, None, None, None], None, ImageRows(1, 1))


class Data:
    """Two parts of 40 and 100 training rows that are read in equal shares, and 30 held-out rows of each."""

    names = ("small", "large")

    def __init__(self):
        self.parts = [("small", numbered(0, 40)), ("large", numbered(40, 100))]

    def training_rows(self, reads, size, seed):
        return TrainingRows(MixedRows(self.parts, (0.5, 0.5)), size, seed)

    def held_out(self, part, reads):
        return SimpleNamespace(rows=numbered({"small": 140, "large": 200}[part], 30))

    def epochs(self, rows, reads):
        return {"small": rows / 80, "large": rows / 200}


def members(step, **config):
    evals = SimpleNamespace(membership=MembershipConfig(**config), batch_size=0)
    recipe = SimpleNamespace(evals=evals, train=SimpleNamespace(batch_size=BATCH), seed=3)
    run = SimpleNamespace(step=step, config=recipe, workdir="run", objective=SimpleNamespace(reads=ImageRows(1, 1)))
    return perils.Members(SimpleNamespace(run=run, data=Data()))


@pytest.mark.parametrize("step", [4, 12])
def test_members_are_rows_that_the_run_has_read(step):
    """A part of the training split in a run of less than an epoch; of the part of the mixture that most of them are of."""
    found = members(step)
    numbers, others = (rows["image"].ravel() for rows in found.rows)
    training = Data().training_rows(None, BATCH, 3)
    read = np.unique(np.concatenate([training.numbers(number) for number in range(step)]))
    part = (read < 40) if (read < 40).sum() >= (read >= 40).sum() else (read >= 40)
    assert set(numbers) <= set(read[part]) and len(set(numbers)) == found.count == min(part.sum(), 30)
    assert others.min() >= (140 if numbers.max() < 40 else 200) and len(set(others)) == found.count
    assert found.epochs == step * BATCH / (80 if numbers.max() < 40 else 200)


def test_too_few_rows_were_read():
    for step in (0, 2):
        with pytest.raises(ConfigError, match="too few rows") as refused:
            members(step)
        assert f"{step} steps have read" in refused.value.why and "train longer" in refused.value.do


def test_of_a_long_run_steps_are_spread_evenly():
    training = SimpleNamespace(numbers=lambda step: np.array([step, step]))
    assert perils.rows_read(training, 1001, 11).tolist() == list(range(0, 1001, 100))
    assert perils.rows_read(training, 3, 11).tolist() == [0, 1, 2]


def run(about, reads, digest=None, **given):
    tokenizer = digest and SimpleNamespace(digest=digest)
    return SimpleNamespace(about=about, objective=SimpleNamespace(reads=reads), tokenizer=tokenizer, **given)


WORDS = Vocabulary(40, (("pad", 0), ("eos", 1)))
TEXT = run(WORDS, TextRows(9), "one")
DIGITS = Images(8, 1, ("0", "1"), (0.5,), (0.5,)), ImageRows(8, 1, ("label",))
PICTURES = run(*DIGITS)


@pytest.mark.parametrize(
    ("here", "there", "what"),
    [
        (TEXT, run(WORDS, TextRows(9), "two"), "tokenizer"),
        (TEXT, run(WORDS, TextRows(8), "one"), "length"),
        (TEXT, run(Vocabulary(41, WORDS.specials), TextRows(9), "one"), "vocabulary"),
        (PICTURES, run(Images(8, 1, ("1", "0"), (0.5,), (0.5,)), DIGITS[1]), "list of classes"),
        (PICTURES, run(Images(9, 1, ("0", "1"), (0.5,), (0.5,)), ImageRows(9, 1, ("label",))), "size"),
        (PICTURES, TEXT, "length or size"),
    ],
)
def test_a_run_that_reads_other_rows_is_no_reference_and_no_shadow(here, there, what, monkeypatch):
    monkeypatch.setattr(perils, "load", lambda workdir: there)
    with pytest.raises(ConfigError, match="reads other rows") as refused:
        perils.alike(here, "other", "shadows")
    assert what in refused.value.why and refused.value.where.endswith(".shadows")


def test_pictures_with_statistics_of_their_own_are_comparable(monkeypatch):
    other = run(Images(8, 1, ("0", "1"), (0.4,), (0.3,)), DIGITS[1])
    monkeypatch.setattr(perils, "load", lambda workdir: other)
    assert perils.alike(PICTURES, "other", "reference") is other


def test_what_was_forgotten_is_measured_in_the_same_words(monkeypatch):
    """Rows of the vocabulary were laid elsewhere where the run began with another tokenizer."""
    config = SimpleNamespace(init_from="source", init=InitConfig(step=4))
    asked = []
    source = run(WORDS, TextRows(9), "two", workdir="source")
    monkeypatch.setattr(perils, "load", lambda *which: asked.append(which) or source)
    with pytest.raises(ConfigError, match="other tokens"):
        perils.forgetting(SimpleNamespace(run=run(WORDS, TextRows(9), "one", config=config)))
    assert asked == [("source", 4)]


def test_what_is_no_weight_is_measured_as_it_stands():
    """A prompt cannot be merged: its importance is its own, for a run that goes on with it. What preserves is left out."""
    prompted = PromptConfig(3).wrap(text(Autoregressive))
    given = {"params": {}, "extras": {"inner": {}, "anchor": {}}, "rules": None, "about": WORDS, "tokenizer": None}
    preserved = Run("run", 7, None, EwcConfig().wrap(prompted), **given)
    found = perils.measured_whole(preserved)
    assert found.objective == prompted and found.extras == {}


def preserving(preserve, source, inner, leaves):
    """(recipe, parts) of a run that preserves what `source` knows; its trained leaves."""
    recipe = SimpleNamespace(preserve=preserve, init_from=str(source), init=InitConfig())
    held = {"layers": {"kernel": np.ones((2, 2), np.float32)}}
    found = SimpleNamespace(extras={"importance": held}, params=held, params_axes=tuple((path, ()) for path in leaves))
    return recipe, SimpleNamespace(objective=SimpleNamespace(inner=inner), found=found)


@pytest.mark.parametrize(
    "measured", [{"layers": {"lora_a": np.ones((2, 2))}}, {"layers": {"kernel": np.zeros((2, 2))}}]
)
def test_fisher_information_that_holds_nothing_is_refused(measured, tmp_path):
    write_fisher(tmp_path, 7, measured, {"examples": 1, "labels": "true"})
    recipe, parts = preserving(EwcConfig(), tmp_path, None, ["layers/kernel"])
    start = Start(params={"layers/kernel": np.ones((2, 2))}, step=7)
    with pytest.raises(ConfigError, match="holds none of the parameters"):
        leaves_of(recipe, parts, start, lambda line: None)


def test_a_teacher_without_what_its_run_inserted_is_refused():
    """The rows of a fresh prompt are none of the teacher's; those that the source run learned would be."""
    recipe, parts = preserving(
        DistillConfig(), "source", PromptConfig(3).wrap(text(Autoregressive)), ["prompt", "token/table"]
    )
    start = Start(params={"token/table": np.ones(1)})
    assert leaves_of(recipe, parts, start, lambda line: None) == {}
    start.params["prompt"] = np.ones(1)
    with pytest.raises(ConfigError, match="not be the model that the run starts from"):
        leaves_of(recipe, parts, start, lambda line: None)
