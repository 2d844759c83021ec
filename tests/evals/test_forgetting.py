"""What a run has forgotten: whose parameters are put into the old task."""

from dataclasses import dataclass

import jax
import numpy as np
import pytest

from pretrainx.core.axes import boxed
from pretrainx.core.errors import ConfigError
from pretrainx.evals.forgetting import forgetting, overlaid, with_statistics
from toys.line import Line


@dataclass(frozen=True)
class Source(Line):
    """A task with a head and a table."""

    def init(self, key, batch):
        make = lambda *shape: boxed(np.zeros(shape), *["embed"] * len(shape))
        return {"body": make(3), "classes": {"kernel": make(2)}, "table": make(4), "projector": make(5)}


def trees():
    old = {"body": np.ones(3), "classes": {"kernel": np.ones(2)}, "table": np.ones(4), "projector": np.ones(5)}
    new = {"body": np.full(3, 2.0), "classes": {"kernel": np.full(2, 2.0)}, "table": np.full(6, 2.0)}
    return new, old


def test_what_the_new_task_has_changed_is_put_into_the_old_one():
    """Its own head, what it has in another size and what it does not have are those of before."""
    new, old = trees()
    found = overlaid(Source(), 4, ("classes",), new, old)
    values = jax.tree.map(lambda leaf: set(leaf.tolist()), found)
    assert values == {"body": {2.0}, "classes": {"kernel": {1.0}}, "table": {1.0}, "projector": {1.0}}
    assert overlaid(Source(), 4, (), new, old)["classes"]["kernel"][0] == 2.0
    with pytest.raises(ConfigError, match="no parameter in common"):
        overlaid(Source(), 4, ("classes",), {"table": new["table"]}, old)
    with pytest.raises(ConfigError, match="cannot be put into the task"):
        overlaid(Source(), 4, (), new, {"body": old["body"]})


@dataclass
class HeldOut:
    """Says what it was asked."""

    objective: object

    def __call__(self, params, extras, step):
        assert step == 7
        return {"loss": {"source": 1.0, "adapted": 10.0}[self.objective] * params * extras}


def test_the_difference_is_after_minus_before():
    held_out = {"held_out": HeldOut("source"), "held_out/part": HeldOut("source")}
    found = forgetting(held_out, "adapted", (2.0, 1.0), (0.5, 3.0), 7)
    assert found["before/loss"] == 2.0 and found["after/loss"] == 15.0 and found["difference"] == 13.0
    assert found["part/difference"] == 13.0 and len(found) == 6


def test_running_statistics_are_those_of_each_run():
    """Of the adapted run where it has them, wherever it keeps them; what else the source keeps stays."""
    old = {"batch_stats": {"norm": {"mean": np.zeros(3)}, "head": {"mean": np.zeros(3)}}, "queue": np.zeros(3)}
    stats = {"norm": {"mean": np.ones(3)}, "head": {"mean": np.ones(2)}}
    found = with_statistics({"online": {"batch_stats": stats}, "queue": np.ones(3)}, old)
    assert found["batch_stats"]["norm"]["mean"].tolist() == [1, 1, 1]
    assert not np.any(found["batch_stats"]["head"]["mean"]) and not np.any(found["queue"])
    assert jax.tree.structure(found) == jax.tree.structure(old) == jax.tree.structure(with_statistics({}, old))
