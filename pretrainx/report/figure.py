"""What all figures of pages share: colours, style, and the way from a matplotlib figure to SVG text inside a page.

matplotlib is imported here, in charts and curves beside this file, and in evals/curve_picture, nowhere else.
"""

from __future__ import annotations

import io
import re
from html import escape

import matplotlib
from matplotlib.figure import Figure

COLOURS = ("#2f5d8a", "#c2571a", "#3a7d44", "#8e3b6f", "#7a6a1f", "#4b4ba3", "#a33b3b", "#3b8f8f")
INK, MUTED, GRID = "#2b2f36", "#6b7280", "#e6e8eb"
STYLE = {
    "svg.fonttype": "path",
    "font.size": 9,
    "axes.edgecolor": "#b8bdc6",
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.titlecolor": INK,
    "axes.titlepad": 10,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.width": 0.8,
    "ytick.major.width": 0.8,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "legend.fontsize": 8,
}


def svg(figure: Figure, key: str, title: str) -> str:
    """The bare <svg> element: no prologue, scaled by its viewBox, ids of its own by `key`, named for screen readers.

    A fixed salt makes equal figures equal bytes; without metadata the text holds no date and no address.
    """
    buffer = io.StringIO()
    nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": key}):
        figure.savefig(buffer, format="svg", metadata=nothing, transparent=True)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    head, rest = text.split(">", 1)
    head = re.sub(r'\s(xmlns(:\w+)?|width|height|version)="[^"]*"', "", head)
    rest = re.sub(r"<style.*?</style>", "", rest, count=1, flags=re.DOTALL)  # it would style the whole page
    prefix = re.sub(r"\W+", "-", key)
    rest = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}-", rest)
    return f'{head} role="img" aria-label="{escape(title)}">{rest}'
