"""Files of one JSON object per line: `metrics.jsonl` and `events.jsonl`.

NaN and infinities are written as the strings "nan", "inf" and "-inf", so that every line is valid JSON.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def encode(record: Mapping[str, Any]) -> str:
    """One line of JSON without its newline. NumPy and JAX scalars and arrays become numbers and lists."""
    return json.dumps(_plain(record), allow_nan=False, separators=(", ", ": "))


def read(path: str | Path) -> list[dict[str, Any]]:
    """Every record of a file, in file order; a file that does not exist has none.

    A line that is not a JSON object is left out: a kill tears the last line, and a run that resumed has written on.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return []
    records = []
    for line in text.split("\n"):
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            records.append(record)
    return records


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """One record per step, in order of steps, with "nan" and "inf" as numbers again.

    Records of one step are laid over each other (training and evaluation write separate ones), the last value of a
    key winning: steps that ran again after a resume replace the first ones.
    """
    steps: dict[int, dict[str, Any]] = {}
    for record in read(path):
        step = record.get("step")
        if isinstance(step, int):
            steps.setdefault(step, {}).update({key: _number(value) for key, value in record.items()})
    return [steps[step] for step in sorted(steps)]


def _number(value: Any) -> Any:
    return _NOT_FINITE.get(value, value) if isinstance(value, str) else value


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):  # numpy and jax, scalars and arrays, without importing either
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(value)
