"""What experts add to an objective: further terms in training alone, one weight a row; and who refuses such a model."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contract.cases import CONFIG, EXPERTS, LENGTH, MARKED, make_batch, text
from pretrainx.core import axes
from pretrainx.core.errors import ConfigError
from pretrainx.core.labelled import Labelled
from pretrainx.models.layers import Precision
from pretrainx.objectives.autoregressive import Autoregressive
from pretrainx.objectives.sequence_classification import SequenceClassificationConfig
from pretrainx.objectives.span_corruption import SpanCorruptionConfig

OBJECTIVE = text(Autoregressive, replace(CONFIG, dropout=0.0, remat="none", experts=EXPERTS))


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def scored(rows=6):
    """(outcome in training, outcome outside, observation)"""
    batch = jax.tree.map(lambda leaf: jnp.asarray(leaf[:rows]), make_batch(OBJECTIVE))
    params = axes.unbox(jax.jit(OBJECTIVE.init)(jax.random.key(0), batch))
    keys = OBJECTIVE.row_keys(jax.random.key(0), batch)

    @jax.jit
    def run(params):
        observation = OBJECTIVE.observe_rows(keys, batch, 0)
        encode = lambda train: OBJECTIVE.encode(params, {}, observation, keys, 0, train=train)
        return encode(True), encode(False), observation

    return run(params)


def test_terms_of_a_row_and_none_outside_training():
    """Row 2 is invalid: it has no weight. Coefficients are the config's; a held-out loss is the likelihood."""
    outcome, held_out, observation = scored()
    assert {term.name: term.coefficient for term in OBJECTIVE.terms} == {"nll": 1.0, "balance": 0.1, "router_z": 0.1}
    np.testing.assert_array_equal(observation.weights["balance"], [1, 1, 0, 1, 1, 1])
    for name in ("balance", "router_z"):
        rows = np.asarray(outcome.per_row[name])
        assert rows[2] == 0 and (rows[[0, 1, 3, 4, 5]] > 1.0).all()
        np.testing.assert_allclose(outcome.totals[name], rows.sum())
        assert held_out.totals[name] == 0
    assert held_out.totals["nll"] == outcome.totals["nll"]
    shown = {name: float(mean.total / mean.weight) for name, mean in outcome.metrics.items()}
    assert (
        0.05 < shown["dropped"] < 0.5 and 0.25 < shown["largest_expert"] < 1 and 0 < shown["router_entropy"] < np.log(4)
    )
    assert outcome.metrics["dropped"].weight == 2 * 5


def test_a_model_without_experts_has_one_term():
    assert [term.name for term in text(Autoregressive).terms] == ["nll"]


def test_objectives_without_these_terms_refuse_experts():
    model = replace(CONFIG, experts=EXPERTS)
    with pytest.raises(ConfigError, match="'span_corruption' does not balance experts") as caught:
        SpanCorruptionConfig().build(model, MARKED, LENGTH, Precision())
    assert caught.value.where == "config.model.experts.count" and "autoregressive" in caught.value.do
    with pytest.raises(ConfigError, match="'sequence_classification'"):
        about = Labelled(MARKED, "class", ("a", "b"))
        SequenceClassificationConfig().build(model, about, (LENGTH, LENGTH), Precision())
