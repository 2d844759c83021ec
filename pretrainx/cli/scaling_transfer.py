"""`pretrainx scaling coordcheck` and `lr_transfer`: do activations and the best rate stay as they are while a model grows?"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pretrainx.cli.arguments import Arguments, Command, Flag, whole_number
from pretrainx.core.errors import CHECK_FAILED, ConfigError


def _coordcheck(arguments: Arguments) -> int:
    values, base, flags = _config(arguments)
    widths = _widths(flags, [base * factor for factor in (1, 2, 4, 8)])
    steps, seeds = _least(arguments, "steps", 5, 2), _least(arguments, "seeds", 1, 1)
    rates = _numbers(flags["rate"], "rate") if "rate" in flags else None
    if rates and len(rates) > 1:
        raise ConfigError("the check is made at one rate", where="--rate", why=flags["rate"], do="--rate=2^-7")

    from pretrainx.scaling import coordinates

    def measure(values, data):
        rate = rates[0] if rates else _peak(values)
        return coordinates.check(values, data, widths, steps, seeds, rate, print)

    return _judged("coordcheck", arguments, values, measure)


def _lr_transfer(arguments: Arguments) -> int:
    values, base, flags = _config(arguments)
    widths = _widths(flags, [base * factor for factor in (1, 2, 4)])
    steps = _least(arguments, "steps", 100, 5)
    rates = _numbers(flags["rates"], "rates") if "rates" in flags else [_peak(values) * 2.0**k for k in range(-3, 4)]
    if len(set(rates)) < 3:
        raise ConfigError(
            "a minimum inside the list needs rates on both sides", where="--rates", why=flags["rates"], do="name 3"
        )

    from pretrainx.scaling import lr_transfer

    return _judged(
        "lr_transfer",
        arguments,
        values,
        lambda values, data: lr_transfer.measure(values, data, widths, rates, steps, print),
    )


def _config(arguments: Arguments) -> tuple[dict[str, Any], int, dict[str, str]]:
    """(values of the run's config, the narrowest width by default, flags)"""
    from pretrainx.cli.config_file import load
    from pretrainx.runs.recipe import parse

    values = load(arguments.flags["config"], arguments.overrides)
    values.pop("study", None)
    model = parse(values).model
    return values, getattr(model, "base_width", 0) or getattr(model, "width", 0), arguments.flags


def _peak(values: dict[str, Any]) -> float:
    from pretrainx.runs.recipe import parse

    return parse(values).schedule.peak


def _judged(name: str, arguments: Arguments, values: dict[str, Any], measure: Callable) -> int:
    """Measures, prints, writes DIR/NAME.json and DIR/NAME.html; gives the exit code, by the config's own parametrisation."""
    from pretrainx.runs.recipe import parse
    from pretrainx.scaling import check_page, widths

    directory = Path(arguments.flags["output"])
    recipe = parse(values)
    data = widths.data_of(recipe, directory, print)
    chosen = {"as configured": values}
    if "compare" in arguments.flags:
        chosen["standard parametrisation"] = widths.standard(values)
    found = {}
    for title, each in chosen.items():
        print(f"\n{title}")
        found[title] = measure(each, data)
        print("", *found[title].lines(), found[title].verdict(), sep="\n")
    print(f"\n{check_page.write(directory, name, found, values)}")
    return 0 if found["as configured"].passes else CHECK_FAILED


def _widths(flags: dict[str, str], default: list[int]) -> list[int]:
    if "widths" not in flags:
        return default
    found = _numbers(flags["widths"], "widths")
    if len(set(found)) < 2 or any(width != int(width) for width in found):
        raise ConfigError(
            "a check over widths needs two or more of them",
            where="--widths",
            why=flags["widths"],
            do="--widths=64,128,256",
        )
    return sorted({int(width) for width in found})


def _least(arguments: Arguments, name: str, default: int, least: int) -> int:
    found = whole_number(arguments, name) if name in arguments.flags else default
    if found < least:
        raise ConfigError(
            f"--{name} is too small", where=f"--{name}", why=f"got {found}", do=f"--{name}={least} or more"
        )
    return found


def _numbers(text: str, name: str) -> list[float]:
    """Of "64,128" or "2^-9,0.004"; ConfigError where one is not a number above 0."""
    found = []
    for part in text.split(","):
        power = re.fullmatch(r"\s*2\^(-?\d+)\s*", part)
        try:
            found.append(2.0 ** int(power[1]) if power else float(part))
        except (ValueError, OverflowError):
            found.append(0.0)
        if not 0 < found[-1] < float("inf"):
            raise ConfigError(
                f"--{name} is a list of numbers above 0",
                where=f"--{name}",
                why=f"got {part!r}",
                do=f"--{name}=2^-9,2^-8,2^-7",
            )
    return found


_CONFIG = Flag("config", "a run's config; it is tried at several widths", "FILE[:ARG]", required=True)
_OUTPUT = Flag("output", "where the table, the picture and the prepared data go", "DIR", required=True)
_COMPARE = Flag("compare", "the same without base_width and the like, too; it does not enter the exit code")
COMMANDS = (
    Command(
        "scaling coordcheck",
        f"do activations keep their size as the model grows (muP)? exit 0 if they do, {CHECK_FAILED} if not",
        _coordcheck,
        (
            _CONFIG,
            _OUTPUT,
            Flag("widths", "default: 1, 2, 4, 8 times base_width", "N,N,..."),
            Flag("steps", "measured before each of so many updates (5); the last one is judged", "N"),
            Flag("seeds", "averaged over (1)", "N"),
            Flag("rate", "learning rate (config.schedule.peak)", "R"),
            _COMPARE,
        ),
        overrides=True,
    ),
    Command(
        "scaling lr_transfer",
        f"does the best learning rate stay where it is as the model grows? exit 0 if it does, {CHECK_FAILED} if not",
        _lr_transfer,
        (
            _CONFIG,
            _OUTPUT,
            Flag("widths", "default: 1, 2, 4 times base_width", "N,N,..."),
            Flag("rates", "peaks of config.schedule (seven around its own, a factor of 2 apart)", "R,R,..."),
            Flag("steps", "of each run (100)", "N"),
            _COMPARE,
        ),
        overrides=True,
    ),
)
