"""The frame of every page: one HTML file that needs no network and no script."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from pretrainx.report.style import STYLE


def document(title: str, kind: str, sections: Iterable[str], footer: str, style: str = "") -> str:
    """The page. `kind` is what it is, above its title; empty sections are left out; the footer is HTML already."""
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)} - {escape(kind)}</title>\n<style>\n{STYLE}{style}</style>\n</head>\n<body>\n"
        f'<header><p class="kind">{escape(kind)}</p><h1>{escape(title)}</h1></header>\n'
        + "\n".join(filter(None, sections))
        + f"\n<footer>{footer}</footer>\n</body>\n</html>\n"
    )


def section(title: str, body: str) -> str:
    """A part of the page; its body is HTML already."""
    return f"<section>\n<h2>{escape(title)}</h2>\n{body}\n</section>"
