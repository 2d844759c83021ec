"""What a mixture of experts adds to an objective: its balance and the size of its router's logits, row by row."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from pretrainx.core.errors import ConfigError
from pretrainx.core.records import Mean, Outcome, Term
from pretrainx.models.experts import ExpertsConfig, Routing


def terms(experts: ExpertsConfig) -> tuple[Term, ...]:
    """The further terms of a model with these experts. Each row counts once, with the sum over blocks of its own statistic: it
    sees no other rows."""
    return (Term("balance", experts.balance), Term("router_z", experts.z)) if experts.count else ()


def weights(experts: ExpertsConfig) -> dict[str, jax.Array]:
    """Those of one example."""
    return {term.name: jnp.ones(()) for term in terms(experts)}


def added(outcome: Outcome, routing: Routing | None, weights: dict[str, jax.Array], train: bool) -> Outcome:
    """The outcome with these terms, 0 outside training (a held-out loss is the plain likelihood), and with metrics, means over
    rows and blocks: the share of choices that were "dropped", the "largest_expert" share, "router_entropy" in nats."""
    if routing is None:
        return outcome
    weight, totals, per_row = weights["balance"], dict(outcome.totals), dict(outcome.per_row)
    # `where`, since 0 times a NaN is NaN.
    seen = lambda each: jnp.where(weight > 0, weight * each, 0)
    for name, each in (("balance", routing.balance), ("router_z", routing.z)):
        rows = seen(each.sum(0)) * train
        totals[name], per_row[name] = rows.sum(), jax.lax.stop_gradient(rows)
    blocks = routing.balance.shape[0]
    mean = lambda each: Mean(jax.lax.stop_gradient(seen(each)).sum(dtype=float), blocks * weight.sum(dtype=float))
    shown = {"dropped": routing.dropped, "largest_expert": routing.largest, "router_entropy": routing.entropy}
    metrics = outcome.metrics | {name: mean(each) for name, each in shown.items()}
    return outcome.replace(totals=totals, per_row=per_row, metrics=metrics)


def refuse_experts(name: str, model: Any) -> None:
    """ConfigError for a model with experts, of an objective without these terms."""
    if getattr(model, "experts", ExpertsConfig()).count:
        raise ConfigError(
            f"the objective {name!r} does not balance experts",
            where="config.model.experts.count",
            why="without the terms that the objective 'autoregressive' has, most tokens come to choose the same few",
            do="--config.model.experts.count=0, or --config.objective.name=autoregressive",
        )
