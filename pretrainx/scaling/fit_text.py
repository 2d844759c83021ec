"""A fit as a person reads it: values with both kinds of intervals, what was decided on the way, and cautions."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pretrainx.core.readable import aligned
from pretrainx.scaling import delta
from pretrainx.scaling.fits import Fit
from pretrainx.scaling.laws import FORMS
from pretrainx.scaling.predictions import FEWEST, REACH, asks_unique
from pretrainx.scaling.presets import DOMAINS, GOPHER, PRESETS, TEXT
from pretrainx.scaling.ratio import RATIO

NORMAL = 1.6449  # standard deviations on each side of a normal's middle 90%
STEP = 1.0  # of ln C on each side, for the exponent: an optimum along measured costs stays at some sizes for a while
SHOWN = 12  # rows that were left out
QUANTITIES = ("N*", "D*", "L*", "a")


def lines(fit: Fit) -> list[str]:
    """Everything to print."""
    return [
        *_head(fit),
        "",
        *_values(fit),
        "",
        *_optima(fit),
        *_minima(fit),
        *_diagnostics(fit),
        *_dropped(fit),
        *_said(fit),
    ]


def optimum(fit: Fit, values: Mapping[str, float] | np.ndarray, budget: float) -> np.ndarray:
    """float64[..., 4]: ln N*, ln D*, ln L* and a = d ln N* / d ln C at a budget in FLOPs, of a mapping or float64[..., P]."""
    form = FORMS[fit.form]
    at = lambda log_c: np.log(np.array(form.optimum(values, np.exp(log_c), fit.cost), np.float64))
    log_c = np.log(budget)
    slope = (at(log_c + STEP)[0] - at(log_c - STEP)[0]) / (2 * STEP)
    return np.stack([*at(log_c), slope], axis=-1)


def _head(fit: Fit) -> list[str]:
    options = fit.options
    how = fit.method
    if fit.method == "parametric":
        how += f", form {fit.form}, residual {options['residual']}"
        how += f" (delta {options['delta']:g})" if options["residual"] == "huber" else ""
        how += ", alpha = beta" if options["equal"] else ""
    elif fit.method == "isoflop":
        window = options["window"] or "all"
        how += f", {options['minimum']} of {options['scale']}, window {window}, weights {options['weights']}"
    elif fit.method == "envelope":
        how += f", {options['hull']}"
    held = ", ".join(f"{name} = {value:g}" for name, value in options.get("fixed", ()))
    ranges = [f"{name} {_count(low)} .. {_count(high)}" for name, (low, high) in zip("NDC", fit.range, strict=True)]
    return [
        f"method  {how}" + (f"; held: {held}" if held else ""),
        f"rows    {fit.rows} fitted, {len(fit.dropped)} left out; {', '.join(ranges)}",
        f"data    {fit.source or 'a table'} (digest {fit.digest}); N {fit.counted}, D in {fit.unit}s, FLOPs {fit.convention}",
    ]


def _values(fit: Fit) -> list[str]:
    deviations = None if fit.covariance is None else np.sqrt(np.maximum(np.diag(fit.covariance), 0))
    rows = []
    for index, (name, value) in enumerate(fit.values.items()):
        sample = fit.samples[:, index] if len(fit.samples) else None
        reach = None if deviations is None else _reach(name, value, deviations[index])
        shown = _intervals(value, sample, reach)
        rows.append((name, *shown))
    tried = len(fit.samples) + fit.failures
    header = ("value", "estimate", f"90% of {tried} replicates", "90% by delta method")
    table = aligned([header, *rows])
    if fit.failures:
        table.append(f"{fit.failures} of {tried} replicates could not be fitted and are not in the intervals")
    if (before := fit.diagnostics.get("all_rows")) is not None:
        values = ", ".join(f"{name} {value:.5g}" for name, value in before["values"].items())
        table.append(f"with all {before['rows']} rows, outliers among them: {values}")
    return table


def _optima(fit: Fit) -> list[str]:
    """N*, D*, L* and a at the end of the data and beyond, with intervals, and what presets say there."""
    header = ("C", "", "estimate", f"90% of {len(fit.samples)} replicates", "90% by delta method")
    rows = [header]
    top = fit.range[2][1]
    for budget in (top, REACH * top):
        best = optimum(fit, fit.values, budget)
        drawn = optimum(fit, fit.samples, budget)
        deviations = delta.errors(fit, lambda values, budget=budget: optimum(fit, values, budget))
        for index, name in enumerate(QUANTITIES):
            sample = drawn[:, index] if len(drawn) else None
            reach = None if deviations is None else best[index] + NORMAL * deviations[index] * np.array([-1, 1])
            shown = _intervals(best[index], sample, reach, np.array if name == "a" else np.exp, _count)
            rows.append((f"{budget:.3g}" if index == 0 else "", name, *shown))
    without_limit = (
        ["of unlimited unique tokens; scaling predict --unique=U asks for fewer"] if asks_unique(fit) else []
    )
    return [*aligned(rows), *without_limit, "", *_presets(top)]


def _presets(budget: float) -> list[str]:
    rows = [(f"published, at {budget:.3g}", "N*", "D*", "L*", "D*/N*", f"D*/N* at {GOPHER:g} (Chinchilla: 20)")]
    for name, preset in PRESETS.items():
        size, tokens, loss = (float(part) for part in preset.optimum(budget))
        reached = f"{loss:.4g}" if np.isfinite(loss) else ""
        ratios = (f"{ratio:.3g}" for ratio in (tokens / size, preset.ratio()))
        rows.append((name, _count(size), _count(tokens), reached, *ratios))
    size = (budget / (6 * RATIO)) ** 0.5
    rows.append(("20:1 rule", _count(size), _count(RATIO * size), "", f"{RATIO:g}", f"{RATIO:g}"))
    known = {**{f"text ({name})": pair for name, pair in TEXT.items()}, **DOMAINS}
    elsewhere = "; ".join(f"{name} {a:g} / {b:g}" for name, (a, b) in known.items())
    return [
        *aligned(rows),
        "these are of text in tokens and C = 6 N D: other data and counts have other laws",
        f"published a / b of N* ~ C^a and D* ~ C^b: {elsewhere}",
    ]


def _minima(fit: Fit) -> list[str]:
    minima = fit.diagnostics.get("minima", ())
    if not minima:
        return []
    rows = [("budget", "rows", "N*", "D*", "L*", "")]
    for one in minima:
        rows.append(
            (
                f"{one['flops']:.3g}",
                str(len(one["rows"])),
                *(_count(one[name]) if one["used"] else "-" for name in ("parameters", "tokens")),
                f"{one['loss']:.5g}" if one["used"] else "-",
                one["reason"],
            )
        )
    return ["", *aligned(rows)]


def _diagnostics(fit: Fit) -> list[str]:
    """Every number that the method left, but what has a table of its own."""
    own = ("minima", "envelope", "cautions", "notes", "all_rows")
    found = [(name, _plain(value)) for name, value in fit.diagnostics.items() if name not in own]
    return ["", *aligned([("diagnostics", ""), *found])] if found else []


def _dropped(fit: Fit) -> list[str]:
    if not fit.dropped:
        return []
    rows = [("left out", "run", "rule", "reason")]
    rows += [(f"row {one.row}", one.run, one.rule, one.reason) for one in fit.dropped[:SHOWN]]
    more = [f"and {len(fit.dropped) - SHOWN} more, all in the file of the fit"] if len(fit.dropped) > SHOWN else []
    return ["", *aligned(rows), *more]


def _said(fit: Fit) -> list[str]:
    said = [*fit.diagnostics.get("notes", ()), *fit.diagnostics.get("cautions", ())]
    return ["", *(f"caution: {text}" for text in said)] if said else []


def _reach(name: str, value: float, deviation: float) -> np.ndarray:
    """float64[2]: the delta method's 90%; scales and exponents are positive, and so is their interval."""
    reach = NORMAL * deviation * np.array([-1, 1])
    return value + reach if name.startswith("log_") or value <= 0 else value * np.exp(reach / value)


def _intervals(value: float, sample, reach, turned=np.array, written="{:.5g}".format) -> tuple[str, str, str]:
    """Estimate and both intervals as text. turned: from what is given to what is shown, exp where logarithms are given."""
    show = lambda number: written(float(turned(number)))
    few = sample is None or len(sample) < FEWEST
    replicated = "" if few else " .. ".join(map(show, np.percentile(sample, [5, 95])))
    if reach is None:
        return show(value), replicated, ""
    return show(value), replicated, "held" if reach[0] == reach[1] else " .. ".join(map(show, reach))


def _count(number: float) -> str:
    """Four digits, with a suffix up to 999.9T."""
    for suffix, scale in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if scale <= number < 1e15:
            return f"{number / scale:.4g}{suffix}"
    return f"{number:.4g}"


def _plain(value) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_plain(item)}" for name, item in value.items())
    if isinstance(value, (list, tuple, np.ndarray)):
        return " ".join(map(_plain, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)
