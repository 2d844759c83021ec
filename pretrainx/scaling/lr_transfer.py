"""Does the best learning rate of a narrow model serve wider ones? The loss after some steps over rates, a curve per width."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pretrainx.runs.data import Prepared
from pretrainx.scaling.widths import losses, resized, rows_of, trainer

LAST = 0.2  # the share of the steps whose mean loss is a run's result
TIE = 2e-3  # of the best loss: rates as near as this are reported as ties
ADJACENT = 1  # places on the list of rates that the best one may move


@dataclass(frozen=True)
class Transfer:
    """Attributes:
    widths, rates: ascending. curves: float64[W, R, S], the loss before every update; infinite from where a run diverged.
    """

    widths: tuple[int, ...]
    rates: tuple[float, ...]
    curves: np.ndarray

    @property
    def reached(self) -> np.ndarray:
        """float64[W, R], the mean over the last steps."""
        last = max(1, round(LAST * self.curves.shape[-1]))
        return self.curves[..., -last:].mean(-1)

    @property
    def best(self) -> np.ndarray:
        """int[W], the place of each width's best rate."""
        return self.reached.argmin(1)

    @property
    def edges(self) -> list[int]:
        """Widths whose best rate is the first or the last: it may lie beyond."""
        return [width for width, place in zip(self.widths, self.best, strict=True) if place in (0, len(self.rates) - 1)]

    @property
    def drift(self) -> int:
        """Places between the lowest and the highest of the best rates."""
        return int(self.best.max() - self.best.min())

    @property
    def passes(self) -> bool:
        return self.drift <= ADJACENT and not self.edges

    def ties(self, number: int) -> list[float]:
        """Other rates at which a width's loss is nearly as low."""
        reached, best = self.reached[number], self.best[number]
        near = reached <= reached[best] * (1 + TIE)
        return [rate for place, rate in enumerate(self.rates) if near[place] and place != best]

    def wider_is_better(self) -> list[float]:
        """For each width but the first: the share of steps, averaged over twentieths of the run, at which its loss is no higher
        than that of the width before it, both at the rate that is best for the narrowest model."""
        parts = np.array_split(np.arange(self.curves.shape[-1]), min(20, self.curves.shape[-1]))
        at = self.curves[:, self.best[0]]
        smooth = np.array([at[:, part].mean(1) for part in parts])
        better = np.isfinite(smooth[:, 1:]) & (smooth[:, 1:] <= smooth[:, :-1])
        return [float(share) for share in better.mean(0)]

    def lines(self) -> list[str]:
        """A table of widths and rates; the lowest loss of a width is marked with *."""
        rows = ["width" + "".join(f"{shown(rate):>10}" for rate in self.rates) + "   best"]
        for number, width in enumerate(self.widths):
            mark = lambda place, best=self.best[number]: "*" if place == best else " "
            cells = [f"{loss:.4f}{mark(place)}" for place, loss in enumerate(self.reached[number])]
            ties = ", ".join(map(shown, self.ties(number)))
            said = shown(self.rates[self.best[number]]) + (f", nearly as good: {ties}" if ties else "")
            said += " (at the edge)" if width in self.edges else ""
            rows.append(f"{width:<5}" + "".join(f"{cell:>10}" for cell in cells) + f"   {said}")
        better = self.wider_is_better()
        for number, share in enumerate(better, 1):
            at = shown(self.rates[self.best[0]])
            rows.append(
                f"{self.widths[number]} is no worse than {self.widths[number - 1]} at {share:.0%} of the steps (rate {at})"
            )
        return rows

    def verdict(self) -> str:
        if self.edges:
            widths = ", ".join(map(str, self.edges))
            moved = f"; it moved by {self.drift} places" if self.drift > ADJACENT else ""
            return (
                f"FAIL: the best rate of width {widths} lies at the edge of --rates{moved}; a minimum must lie inside"
            )
        word = "PASS" if self.passes else "FAIL"
        widths = ", ".join(map(str, self.widths))
        return f"{word}: the best rate moves by {self.drift} places over widths {widths}, limit {ADJACENT}"


def shown(rate: float) -> str:
    """2^-7 where it is a power of two."""
    power = np.log2(rate)
    return f"2^{round(power)}" if abs(power - round(power)) < 1e-9 else f"{rate:.3g}"


def measure(
    values: dict[str, Any], data: Prepared, widths: Sequence[int], rates: Sequence[float], steps: int, say: Callable
) -> Transfer:
    """Trains the config's model at each width and rate, on the same batches, config.schedule over so many steps."""
    widths, rates = tuple(sorted(widths)), tuple(sorted(set(rates)))
    curves = np.full((len(widths), len(rates), steps), np.inf)
    for number, width in enumerate(widths):
        changed = resized(values, width)
        changed["train"] = {**changed.get("train", {}), "steps": steps}
        one = trainer(changed, data)
        rows, start, step = rows_of(data, one.recipe, one.parts), one.start(), one.step()
        for place, rate in enumerate(rates):
            found = losses(start, step, (one.placed(rows.batch(at)) for at in range(steps)), rate)
            curves[number, place, : len(found)] = found
            say(f"width {width}, rate {shown(rate)}: {found[-1]:.4f} after {len(found)} steps")
    return Transfer(widths, rates, curves)
