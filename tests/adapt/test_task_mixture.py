"""A mixture of objectives: names, shares, keys, outputs, and which task writes."""

from dataclasses import dataclass

import jax
import numpy as np
import pytest

from pretrainx.adapt.mixture import Mixture
from pretrainx.adapt.wrapper import Wrapper
from pretrainx.core import paths, random
from pretrainx.core.errors import ConfigError
from pretrainx.core.records import TextRows, rows_of_task, tokens_of
from pretrainx.core.schedule import Ramp
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.models.decoder import Decoder, DecoderConfig
from pretrainx.models.layers import Precision
from pretrainx.objectives.autoregressive import Autoregressive
from pretrainx.objectives.objective import check_outputs
from toys.line import Line

VOCABULARY = Vocabulary(20, (("pad", 0), ("eos", 1)))


def causal(length=8):
    model = Decoder(DecoderConfig(width=8, depth=1, heads=2), VOCABULARY.size, 16, Precision("float64", "float64"))
    return Autoregressive(model, VOCABULARY, length)


@dataclass(frozen=True)
class Named(Line):
    """A line with an output of its own, and FLOPs."""

    output: str = "slope"

    def outputs(self, params, extras, inputs, names, key=None, *, train=False):
        check_outputs(names, (self.output,))
        return {self.output: params["slope"] * inputs["x"] + extras["shift"]}

    def flops_per_row(self):
        return 100.0


@pytest.mark.parametrize(
    "tasks, match",
    [
        ((("a", Line(), 0.5), ("a", Line(), 0.5)), "cannot be told apart"),
        ((("a/b", Line(), 1.0),), "cannot be told apart"),
        ((("a", Line(), 0.5), ("b", Line(), 0.4)), "no parts of a whole"),
        ((("a", Line(), 1.5), ("b", Line(), -0.5)), "no parts of a whole"),
    ],
    ids=["twice", "slash", "less", "negative"],
)
def test_names_and_shares_are_checked(tasks, match):
    with pytest.raises(ConfigError, match=match):
        Mixture(tasks)


def test_rows_of_a_share():
    assert rows_of_task("a", 0.29, 100) == 29  # 100 x 0.29 is 28.999999999999996
    assert rows_of_task("a", 1 / 3, 24) == 8
    with pytest.raises(ConfigError, match="whole number of rows") as caught:
        rows_of_task("span", 0.25, 10)
    assert "'span'" in caught.value.why and "2.5" in caught.value.why
    with pytest.raises(ConfigError, match="whole number of rows"):
        rows_of_task("a", 0.01, 8)


def test_flops_tokens_and_rows():
    assert tokens_of(TextRows(33, 1)) == 32 and tokens_of(TextRows(30)) == 30
    pair = Mixture((("short", causal(8), 0.25), ("long", causal(12), 0.75)))
    assert pair.reads == (("short", 0.25, TextRows(9, 1)), ("long", 0.75, TextRows(13, 1)))
    assert tokens_of(pair.reads) == 0.25 * 8 + 0.75 * 12
    spec = pair.batch_spec(8)
    assert spec["short"]["tokens"].shape == (2, 9) and spec["long"]["tokens"].shape == (6, 13)
    flops = [causal(length).flops_per_row() for length in (8, 12)]
    assert pair.flops_per_row() == pytest.approx(0.25 * flops[0] + 0.75 * flops[1], rel=1e-12)
    assert Mixture((("a", Named(), 0.5), ("b", Line(), 0.5))).flops_per_row() is None


def test_tasks_draw_by_themselves():
    """Two equal tasks see equal rows with other keys: the draw of one is not the draw of the other."""
    pair = Mixture((("a", Line(noise=1.0), 0.5), ("b", Line(noise=1.0), 0.5)))
    batch = jax.tree.map(lambda spec: np.ones(spec.shape, spec.dtype), pair.batch_spec(8))
    keys = pair.row_keys(random.stream(0, random.OBSERVE, 3), batch)
    seen = pair.observe_rows(keys, batch, 3)
    assert set(seen.weights) == {"a/fit", "a/size", "b/fit", "b/size"}
    a, b = (np.asarray(seen.inputs[name].inputs["x"]) for name in "ab")
    assert a.shape == b.shape == (4, 2) and np.abs(a - b).min() > 1e-6
    # A row's draw depends on its own number only.
    fewer = jax.tree.map(lambda x: x[:2], batch)
    again = pair.observe_rows(pair.row_keys(random.stream(0, random.OBSERVE, 3), fewer), fewer, 3)
    np.testing.assert_array_equal(again.inputs["b"].inputs["x"], b[:2])


def test_outputs_by_task_and_by_the_first_that_knows():
    pair = Mixture((("a", Named(), 0.5), ("b", Named(output="height"), 0.5)))
    params = {"slope": np.array([1.0, 2.0])}
    extras = {"a": {"shift": 0.0}, "b": {"shift": 5.0}}
    inputs = {"x": np.array([1.0, 1.0])}
    found = pair.outputs(params, extras, inputs, ("slope", "height", "b/height"))
    assert set(found) == {"slope", "height", "b/height"}
    np.testing.assert_array_equal(found["slope"], [1, 2])
    np.testing.assert_array_equal(found["height"], [6, 7])
    nested = {"a": inputs, "b": {"x": np.array([2.0, 2.0])}}
    found = pair.outputs(params, extras, nested, ("a/slope", "b/height"))
    np.testing.assert_array_equal(found["b/height"], [7, 9])
    np.testing.assert_array_equal(found["a/slope"], [1, 2])
    for name, told in (("depth", "a: no output 'depth'.*; b: no output 'depth'"), ("c/slope", "the tasks are a, b")):
        with pytest.raises(ValueError, match=told):
            pair.outputs(params, extras, inputs, (name,))


def test_the_first_task_that_writes_decodes():
    task = causal()
    pair = Mixture((("line", Line(), 0.5), ("lm", Wrapper(task), 0.5)))
    assert task.decodes and Wrapper(task).decodes and pair.decodes and not Line().decodes
    assert not Mixture((("line", Line(), 1.0),)).decodes and pair.writer()[0] == "lm"
    batch = jax.tree.map(lambda spec: np.zeros(spec.shape, spec.dtype), task.batch_spec(1))
    params = paths.map_leaves(lambda _, leaf: leaf.value, task.init(jax.random.key(0), batch))
    tokens = np.array([[2, 3, 4]], np.int32)
    extras = {"line": {}, "lm": {}}
    logits, _ = pair.decode(params, extras, tokens, pair.cache(params, extras, 1, 8))
    wanted = task.outputs(params, {}, {"tokens": tokens}, ("logits",))["logits"]
    np.testing.assert_allclose(logits, wanted, rtol=1e-9, atol=1e-9)
    with pytest.raises(TypeError, match="no task of the mixture"):
        Mixture((("line", Line(), 1.0),)).cache({}, {}, 1, 8)


def test_denoisers_count_by_their_rows():
    """The loss of an average row: a quarter of the rows is a quarter of the loss, under a schedule too."""
    task = Line(coefficient=Ramp(1.0, 4.0, 3))
    mixture = Mixture((("a", task, 0.25), ("b", task, 0.75)), by_share=True)
    for step, size in ((0, 1.0), (3, 4.0)):
        assert [float(term.at(step)) for term in mixture.terms] == [0.25, 0.25 * size, 0.75, 0.75 * size]
    assert {mixture} == {Mixture((("a", task, 0.25), ("b", task, 0.75)), by_share=True)}
    plain = Mixture((("a", task, 0.25), ("b", task, 0.75)))
    assert [float(term.at(3)) for term in plain.terms] == [1.0, 4.0, 1.0, 4.0]
