"""Labelled texts that every Python has: first sentences of the standard library's docstrings, told apart by their package."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from typing import Any

from pretrainx.data import sources

# Those of many docstrings, each about something of its own.
PACKAGES = ("asyncio", "email", "importlib", "multiprocessing", "tkinter", "unittest")


def docstrings() -> Iterator[tuple[str, dict[str, Any]]]:
    """(file and line, {"text": the first paragraph, "label": its package, "module": its file}), in the order of the files."""
    for document in sources.documents("stdlib"):
        package = document.name.split("/")[0]
        if package not in PACKAGES:
            continue
        for node in ast.walk(ast.parse(document.text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                text = " ".join(inspect.cleandoc(ast.get_docstring(node) or "").split("\n\n")[0].split())
                if text:
                    yield f"{document.name}:{node.lineno}", {"text": text, "label": package, "module": document.name}
