"""fit.json: a Fit as it is, to the last digit, so that what is predicted from the file is what the fit predicts."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from pretrainx.core.errors import DataError
from pretrainx.core.json_lines import encode
from pretrainx.core.whole_file import write_whole
from pretrainx.scaling.fits import Cost, Dropped, Fit

NAME = "fit.json"
FORMAT = 1  # goes up with every change that an older reader would misread
_NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def save(fit: Fit, path: str | Path) -> Path:
    """Writes the file whole or not at all; a key a line, numbers with all their digits. Returns its path."""
    fields = {field.name: getattr(fit, field.name) for field in dataclasses.fields(fit)}
    fields["cost"] = dataclasses.asdict(fit.cost)
    fields["dropped"] = [dataclasses.asdict(one) for one in fit.dropped]
    lines = [encode({name: value})[1:-1] for name, value in {"format": FORMAT, **fields}.items()]
    return write_whole(path, "{\n" + ",\n".join(lines) + "\n}\n")


def load(path: str | Path) -> Fit:
    """The Fit of a file; lists of its options and diagnostics stay lists. DataError where it isn't such a file."""
    try:
        given = json.loads(Path(path).read_text(encoding="utf-8"))
        given = {name: value if name == "dropped" else _finite(value) for name, value in given.items()}
        version = given.pop("format")
        if version > FORMAT:
            raise ValueError(f"its format is {version}, this version reads up to {FORMAT}")
        points = tuple(tuple(point) for point in given["cost"]["points"])
        return Fit(
            **{
                **given,
                "cost": Cost(given["cost"]["factor"], points),
                "dropped": tuple(Dropped(**one) for one in given["dropped"]),
                "samples": np.array(given["samples"], np.float64).reshape(-1, len(given["values"])),
                "covariance": None if given["covariance"] is None else np.array(given["covariance"], np.float64),
                "range": tuple(tuple(pair) for pair in given["range"]),
            }
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(
            "this is no file of a fit",
            where=str(path),
            why=f"{type(error).__name__}: {error}",
            do="write it first: pretrainx scaling fit --workdir=DIR",
        ) from error


def _finite(value: Any) -> Any:
    """Lists and objects with "nan" and "inf" as numbers again."""
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return _NOT_FINITE.get(value, value) if isinstance(value, str) else value
