"""The picture of a label-efficiency curve."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pretrainx.evals.transfer import Curve, half_width


def draw(curves: Mapping[str, Curve], metric: str, path: Path) -> None:
    """Writes a PNG: each curve's mean over seeds with its 95 % interval, over the logarithm of the number of labels."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    for name, curve in curves.items():
        widths = [half_width(values) for values in curve.values]
        axes.errorbar(curve.labels, curve.means, widths, label=name, marker="o", capsize=3)
    axes.set_xscale("log")
    axes.set_xticks(curve.labels, [str(labels) for labels in curve.labels])
    axes.minorticks_off()
    axes.set(xlabel="labels per class", ylabel=metric)
    axes.grid(alpha=0.3)
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
