"""What `scaling predict` prints: a table of optima, other sizes, inverse questions, and where an answer is extrapolated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import brentq

from pretrainx.core.errors import DataError
from pretrainx.core.readable import aligned, quantity
from pretrainx.scaling import inverse, predictions
from pretrainx.scaling.fits import Fit
from pretrainx.scaling.laws import FORMS

OPTIMA = ("C", "N*", "90%", "D*", "90%", "D*/N*", "L*", "90%", "a new run's", "over the most fitted")


@dataclass(frozen=True)
class Questions:
    """What is asked; None is not. budgets: FLOPs. inference: tokens that will be served. unique: how many different tokens
    there are, of laws that ask for it; None: no limit."""

    budgets: tuple[float, ...] = ()
    loss: float | None = None
    parameters: float | None = None
    tokens: float | None = None
    inference: float | None = None
    unique: float | None = None


def lines(fit: Fit, asked: Questions, noise: float | None = None) -> Iterator[str]:
    """Everything to print. noise: of log loss (predictions.scatter). DataError for what the fit cannot answer."""
    yield f"fit  {fit.method}, {fit.form}; N {fit.counted}, D in {fit.unit}s, FLOPs {fit.convention}; digest {fit.digest}"
    if predictions.asks_unique(fit):
        yield supply(fit, asked.unique)
    if asked.budgets:
        yield ""
        found = predictions.best(fit, asked.budgets, noise=noise, unique=asked.unique)
        yield from aligned([OPTIMA, *map(optimum_row, found)])
        yield from _warned(predictions.extrapolated(fit, budget=max(asked.budgets)))
        if fit.form == "frontier":
            yield "other sizes at a budget are not known to a frontier: --method=parametric fits a law of N and D"
    for budget in asked.budgets if fit.form != "frontier" else ():
        yield from ("", *_others(fit, budget, asked.unique))
    for line in _inverse(fit, asked):
        yield from ("", *line)
    if asked.inference is not None:
        yield from ("", *_served(fit, _losses(fit, asked), asked.inference, asked.unique))


def _losses(fit: Fit, asked: Questions) -> list[float]:
    """Those that are to be served: the loss that was asked for, else that of the size and tokens, else of the budgets."""
    if asked.loss is not None:
        return [asked.loss]
    if asked.parameters is not None and asked.tokens is not None:
        return [inverse.loss_at(fit, asked.parameters, asked.tokens, asked.unique)]
    return [float(predictions.optimum(fit, one, asked.unique)[2]) for one in asked.budgets]


def supply(fit: Fit, unique: float | None) -> str:
    """Of how many different tokens a law is asked that takes it that they may be read again."""
    return f"of {'unlimited' if unique is None else count(unique)} unique {fit.unit}s"


def optimum_row(one: predictions.Best) -> tuple[str, ...]:
    """Cells under OPTIMA."""
    return (
        f"{one.budget:.4g}",
        count(one.parameters),
        between(one.parameters_interval, count),
        count(one.tokens),
        between(one.tokens_interval, count),
        f"{one.tokens / one.parameters:.3g}",
        f"{one.loss:.5g}",
        between(one.loss_interval),
        between(one.loss_reach),
        f"{one.beyond:.3g} times" if one.beyond > 1.001 else "inside",
    )


def _others(fit: Fit, budget: float, unique: float | None) -> list[str]:
    rows = [("C = " + f"{budget:.4g}: size", "N", "D", "D/N", "loss", "over L*", "C for L*", "times C")]
    for one in inverse.others(fit, budget, unique=unique):
        reached = np.isfinite(one.same)
        rows.append(
            (
                "N*" if one.factor == 1 else f"N* / {one.factor:g}" if one.factor > 1 else f"N* x {1 / one.factor:g}",
                count(one.parameters),
                count(one.tokens),
                f"{one.tokens / one.parameters:.3g}",
                f"{one.loss:.5g}",
                f"{one.cost:+.2%}",
                f"{one.same:.4g}" if reached else "never",
                f"{one.same / budget:.3g}" if reached else "-",
            )
        )
    size, tokens = predictions.at_rule(fit, budget)
    loss = inverse.loss_at(fit, size, tokens, unique)
    least = float(predictions.optimum(fit, budget, unique)[2])
    rule = (
        f"20 {fit.unit}s per N",
        count(size),
        count(tokens),
        "20",
        f"{loss:.5g}",
        f"{loss / least - 1:+.2%}",
        "",
        "",
    )
    return aligned([*rows, rule])


def _inverse(fit: Fit, asked: Questions) -> Iterator[list[str]]:
    size, tokens, loss, unique = asked.parameters, asked.tokens, asked.loss, asked.unique
    if loss is not None and size is None and tokens is None:
        budget = inverse.budget_for(fit, loss, unique)
        best, data, _ = (float(part) for part in predictions.optimum(fit, budget, unique))
        found = inverse.log_budgets(fit, loss, unique)[:, None] if len(fit.samples) >= predictions.FEWEST else None
        span = predictions.interval(fit, lambda values: _log_budget(fit, values, loss, unique), found=found)
        text = "" if span is None else f" ({between(tuple(np.exp(span)), lambda c: f'{c:.4g}')})"
        said = f"a loss of {loss:g} takes {budget:.4g} FLOPs{text}: N {count(best)}, D {count(data)}"
        yield [said, *_warned(predictions.extrapolated(fit, budget=budget))]
    if loss is not None and size is not None:
        data = inverse.tokens_for(fit, size, loss, unique)
        flops = data * float(fit.cost.per_token(size))
        said = f"{count(size)} parameters reach a loss of {loss:g} with D {count(data)}, {flops:.4g} FLOPs"
        yield [said, *_warned(predictions.extrapolated(fit, size, data, flops))]
    if loss is not None and tokens is not None:
        best = inverse.parameters_for(fit, tokens, loss, unique)
        flops = tokens * float(fit.cost.per_token(best))
        said = f"{count(tokens)} {fit.unit}s reach a loss of {loss:g} with N {count(best)}, {flops:.4g} FLOPs"
        yield [said, *_warned(predictions.extrapolated(fit, best, tokens, flops))]
    if loss is None and size is not None and tokens is not None:
        flops = tokens * float(fit.cost.per_token(size))
        yield _one_loss(fit, size, tokens, flops, unique)
    elif loss is None and (size is not None or tokens is not None):
        for budget in asked.budgets:
            yield _one_loss(fit, *_of_budget(fit, budget, size, tokens), budget, unique)


def _of_budget(fit: Fit, budget: float, size: float | None, tokens: float | None) -> tuple[float, float]:
    """N and D of a budget, of which one is given."""
    if size is not None:
        return size, budget / float(fit.cost.per_token(size))
    found = brentq(lambda x: np.log(tokens * float(fit.cost.per_token(np.exp(x)))) - np.log(budget), -50.0, 150.0)
    return float(np.exp(found)), tokens


def _one_loss(fit: Fit, size: float, tokens: float, flops: float, unique: float | None) -> list[str]:
    loss = inverse.loss_at(fit, size, tokens, unique)
    span = predictions.interval(fit, lambda values: FORMS[fit.form].loss(values, size, tokens, unique))
    text = "" if span is None else f" ({between(span)})"
    said = f"N {count(size)} with D {count(tokens)}, {flops:.4g} FLOPs: loss {loss:.5g}{text}"
    return [said, *_warned(predictions.extrapolated(fit, size, tokens, flops))]


def _log_budget(fit: Fit, values, loss: float, unique: float | None) -> float:
    """ln C for a loss by other values; nan where they have it out of reach."""
    try:
        return float(np.log(inverse.budget_for(replace(fit, values=dict(values)), loss, unique)))
    except DataError:
        return np.nan


def _served(fit: Fit, losses: Sequence[float], inference: float, unique: float | None) -> list[str]:
    rows = [("loss", "N", "D", "D/N", "training", "inference", "both", "saved over N*")]
    for loss in losses:
        one = inverse.served(fit, loss, inference, unique)
        rows.append(
            (
                f"{loss:.5g}",
                count(one.parameters),
                count(one.tokens),
                f"{one.tokens / one.parameters:.3g}",
                f"{one.training:.4g}",
                f"{one.inference:.4g}",
                f"{one.total:.4g}",
                f"{one.saved:.1%}",
            )
        )
    return [f"cheapest to train and to serve {count(inference)} {fit.unit}s with, at one loss:", *aligned(rows)]


def _warned(said: Sequence[str]) -> list[str]:
    return [f"extrapolated: {text}" for text in said]


def between(pair, word=lambda number: f"{number:.5g}") -> str:
    """An interval as text; "-" for none."""
    return "-" if pair is None else f"{word(pair[0])} .. {word(pair[1])}"


def count(number: float) -> str:
    """A count as people read it, in powers where suffixes end."""
    return quantity(number) if 1000 <= number < 1e15 else f"{number:.4g}"
