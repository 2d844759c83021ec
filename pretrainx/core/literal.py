"""The value that a piece of text stands for, on a command line and in a list of overrides."""

from __future__ import annotations

import ast
import warnings
from typing import Any

_SPELLINGS = {"true": True, "false": False, "none": None, "null": None}


def literal(text: str) -> Any:
    """A Python literal, true, false or none, else the text itself."""
    if text.strip().lower() in _SPELLINGS:
        return _SPELLINGS[text.strip().lower()]
    try:
        with warnings.catch_warnings(action="ignore"):  # text such as "1is" makes the parser warn
            return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return text
