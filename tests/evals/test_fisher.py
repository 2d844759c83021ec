"""The diagonal Fisher information against what it is known to be."""

import jax
import numpy as np
import pytest

from contract.cases import CASES, make_batch
from pretrainx.core import axes, paths
from pretrainx.core.errors import CheckpointError, ConfigError
from pretrainx.evals.fisher import FisherConfig, fisher
from pretrainx.parallel.mesh import MeshConfig, make_mesh
from pretrainx.parallel.rules import Rules
from pretrainx.runs.preserved import read_fisher, training_batches, write_fisher
from toys.line import Pairs
from toys.linear import WIDTH, Choice, Regression
from toys.small import batch as line_batch


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def rules():
    return Rules(make_mesh(MeshConfig(), jax.devices()[:1]))


def regression(rows=24):
    """(objective, parameters at the truth, a batch whose noise is 1 or -1, and whose last row is not valid)."""
    rng = np.random.default_rng(0)
    slope, x = rng.standard_normal(WIDTH), rng.standard_normal((rows, WIDTH)) * [0.1, 1.0, 3.0]
    valid = np.arange(rows) < rows - 1
    y = np.where(valid, x @ slope + rng.choice([-1.0, 1.0], rows), np.nan)
    return Regression(), {"slope": slope}, {"x": x, "y": y, "valid": valid}


@pytest.mark.parametrize("at_once", [1, 4, 5])
def test_of_a_quadratic_it_is_the_hessian(at_once):
    """The noise has variance 1 in every row, so that the mean of squared gradients is E x^2 exactly, the Hessian's diagonal.
    The square of the mean gradient would be far from it."""
    objective, params, batch = regression()
    config = FisherConfig(labels="empirical", at_once=at_once)
    found, examples = fisher(objective, rules(), config, params, {}, [batch, batch], 0)
    assert examples == 2 * 23
    np.testing.assert_allclose(found["slope"], (batch["x"][:-1] ** 2).mean(0), rtol=1e-6)
    assert found["slope"].dtype == np.float32


def choices(rows=4096):
    rng = np.random.default_rng(1)
    return {
        "x": rng.standard_normal((rows, 2, WIDTH)),
        "label": np.zeros((rows, 2), np.int32),  # not what the model would say: true labels are its own
        "weight": (rng.random((rows, 2)) < 0.7) * 1.0,
        "valid": np.ones(rows, bool),
    }


@pytest.mark.parametrize("level", ["sequence", "token"])
def test_labels_are_drawn_from_the_model(level):
    """Of a softmax of x . kernel it is E x_j^2 p_c (1 - p_c): summed over the places of a row, or of one of them."""
    objective, batch = Choice(), choices()
    kernel = np.random.default_rng(2).standard_normal((WIDTH, objective.classes))
    logits = batch["x"] @ kernel
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    each = batch["x"][..., None] ** 2 * (p * (1 - p))[:, :, None]
    weight = batch["weight"]
    if level == "token":
        weight = weight / np.maximum(weight.sum(1, keepdims=True), 1)
    expected = (weight[..., None, None] * each).sum(1).mean(0)
    config = FisherConfig(level=level, at_once=64)
    found, _ = fisher(objective, rules(), config, {"kernel": kernel}, {}, [batch], 0)
    np.testing.assert_allclose(found["kernel"], expected, rtol=0.2)
    assert abs(found["kernel"].sum() / expected.sum() - 1) < 0.03
    again, _ = fisher(objective, rules(), config, {"kernel": kernel}, {}, [batch], 1)
    assert not np.array_equal(found["kernel"], again["kernel"])  # other draws


@pytest.mark.slow
@pytest.mark.rotated
@pytest.mark.parametrize("labels", ["true", "empirical"])
def test_of_numbers_it_is_the_curvature_of_the_squared_error(labels):
    """2 (df / d theta)^2 of the model's own labels: of the head's bias 2. Of the data's 4 (f - y)^2 (df / d theta)^2."""
    objective = CASES["sequence_regression"]()
    batch = make_batch(objective, 4)
    params = jax.jit(lambda key: axes.unbox(objective.init(key, batch)))(jax.random.key(0))
    found, _ = fisher(objective, rules(), FisherConfig(labels=labels), params, {}, [batch], 0)
    found, valid = dict(paths.leaves(found)), np.asarray(batch["valid"])
    logits = objective.outputs(params, {}, {"tokens": batch["tokens"]}, ("logits", "features"))
    off = logits["logits"][:, 0] - (batch["label"] - objective.mean) / objective.std
    weight = 2 * np.ones(4) if labels == "true" else 4 * off**2
    (bias,) = (path for path in found if path.startswith("task/") and path.endswith("bias"))
    np.testing.assert_allclose(found[bias], weight[valid].mean(keepdims=True), rtol=1e-6)
    kernel = (weight[:, None] * np.square(logits["features"]))[valid].mean(0)
    np.testing.assert_allclose(found[bias.replace("bias", "kernel")][:, 0], kernel, rtol=1e-6)


def test_a_single_class_is_refused():
    """Whatever the parameters are, it has probability 1: the Fisher information would be 0."""
    batch, params = choices(8), {"kernel": np.ones((WIDTH, 1))}
    with pytest.raises(ConfigError, match="how likely") as refused:
        fisher(Choice(classes=1), rules(), FisherConfig(), params, {}, [batch], 0)
    assert "targets are classes" in refused.value.why


def test_what_has_no_likelihood_is_refused():
    objective, params, batch = regression()
    with pytest.raises(ConfigError, match="how likely") as refused:
        fisher(objective, rules(), FisherConfig(), params, {}, [batch], 0)
    assert "mean" in refused.value.why
    params = {"slope": np.ones(2), "still": np.ones(2), "scale": np.ones(())}
    extras = {"mean": np.zeros(2), "rows": np.zeros((8, 2)), "steps": np.int32(0)}
    with pytest.raises(ConfigError, match="compares them"):
        fisher(Pairs(), rules(), FisherConfig(labels="empirical"), params, extras, [line_batch()], 0)
    with pytest.raises(ConfigError, match="one task"):
        fisher(objective, rules(), FisherConfig(), params, {}, [{"a": batch, "b": batch}], 0)


class Counted:
    """Rows whose x is their number."""

    def batch(self, step):
        return {"x": np.arange(8) + 8 * step, "valid": np.ones(8, bool)}


def test_examples_are_the_first_that_were_trained_on():
    batches = list(training_batches(Counted(), 20, 8))
    assert np.concatenate([batch["x"][batch["valid"]] for batch in batches]).tolist() == list(range(20))
    assert [len(batch["x"]) for batch in batches] == [8, 8, 8]


def test_the_file_is_checked(tmp_path):
    tree = {"a": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}, "b": np.ones(2, np.float32)}
    with pytest.raises(ConfigError, match="no Fisher information"):
        read_fisher(tmp_path)
    path = write_fisher(tmp_path, 40, tree, {"examples": 3, "labels": "true"})
    write_fisher(tmp_path, 8, {"b": np.zeros(2, np.float32)}, {"examples": 1, "labels": "true"})
    found, meta = read_fisher(tmp_path)
    assert meta["step"] == 40 and meta["examples"] == 3
    assert np.array_equal(found["a/kernel"], tree["a"]["kernel"]) and set(found) == {"a/kernel", "b"}
    assert read_fisher(tmp_path, 8)[0]["b"].sum() == 0
    with pytest.raises(ConfigError, match="of step 9, which the parameters are from"):
        read_fisher(tmp_path, 9)
    content = bytearray(path.read_bytes())
    content[-40] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(CheckpointError, match="cannot be read") as refused:
        read_fisher(tmp_path)
    assert "sha256" in refused.value.why
