"""Reading a command line against a table of commands. Everything wrong with it is told at once."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from pretrainx.core.errors import ConfigError, nearest

# Keys that people write without their section, for the advice after a stray `steps=3`.
_TRAIN_KEYS = ("steps", "batch_size", "microbatches", "log_every", "eval_every", "grad_clip")


@dataclass(frozen=True)
class Flag:
    """`--name=METAVAR`; without a metavar it takes no value. `may_be_empty`: `--name=` is a value, as of a text."""

    name: str
    help: str
    metavar: str = ""
    required: bool = False
    may_be_empty: bool = False

    def form(self) -> str:
        return f"--{self.name}={self.metavar}" if self.metavar else f"--{self.name}"


@dataclass(frozen=True)
class Command:
    """One row of the table.

    Attributes:
      run: called with the Arguments; returns the exit code. Imports what it needs itself, so that help is quick.
      positionals: the metavar of positional arguments (one or more are then needed), or "" where none are taken.
      overrides: whether `--config.a.b=v` is taken.
      alone: the name of a flag that needs nothing beside it, neither required flags nor positional arguments.
    """

    name: str
    help: str
    run: Callable[[Arguments], int]
    flags: tuple[Flag, ...] = ()
    positionals: str = ""
    overrides: bool = False
    alone: str = ""

    def form(self) -> str:
        """The line that shows how the command is written."""
        flags = [flag.form() if flag.required else f"[{flag.form()}]" for flag in self.flags]
        overrides = ["[--config.KEY=VALUE ...]"] if self.overrides else []
        positionals = [f"{self.positionals} [{self.positionals} ...]"] if self.positionals else []
        return " ".join(["pretrainx", self.name, *flags, *overrides, *positionals])


@dataclass
class Arguments:
    """What was given: flags by name (a flag without a value as ""), overrides in order, positional arguments."""

    flags: dict[str, str] = field(default_factory=dict)
    overrides: list[tuple[str, str]] = field(default_factory=list)
    positionals: list[str] = field(default_factory=list)


EVERYWHERE = (Flag("debug", "show the traceback of an error"), Flag("help", "show this and stop"))


def find(commands: Mapping[str, Command], name: str) -> Command:
    """The command of that name. Raises ConfigError with the nearest one."""
    if name not in commands:
        raise ConfigError(
            f"unknown command {name!r}", where="command line", why=nearest(name, commands), do="pretrainx --help"
        )
    return commands[name]


def parse(command: Command, words: list[str]) -> Arguments:
    """Reads the words after the command's name; `--key=value` and `--key value` are the same.

    Raises:
      ConfigError: unknown or repeated flags, missing values, missing flags, stray positional arguments.
    """
    flags = {flag.name: flag for flag in (*command.flags, *EVERYWHERE)}
    arguments, problems = Arguments(), []
    for word, name, value in _pairs(words, flags):
        if name is None:
            if command.positionals:
                arguments.positionals.append(word)
            else:
                problems.append(f"{word!r} is a stray argument: {_meant(word, flags, command)}")
        elif name.startswith("config.") and command.overrides:
            if value is None:
                problems.append(f"--{name} has no value: --{name}=VALUE")
            else:
                arguments.overrides.append((name.removeprefix("config."), value))
        elif name not in flags:
            written = word.partition("=")[0]
            problems.append(f"unknown flag {written}: {_nearest_flag(name, flags, command)}")
        elif name in arguments.flags:
            problems.append(f"--{name} is given twice: keep one")
        elif flags[name].metavar and not value and (value is None or not flags[name].may_be_empty):
            problems.append(f"--{name} has no value: {flags[name].form()}")
        elif not flags[name].metavar and value is not None:
            problems.append(f"--{name} takes no value: leave out {'=' + value!r}")
        else:
            arguments.flags[name] = value or ""
    if "help" in arguments.flags:
        return arguments
    given = {name for _, name, _ in _pairs(words, flags)}
    alone = command.alone in arguments.flags
    missing = [flag for flag in command.flags if flag.required and flag.name not in given and not alone]
    problems += [f"missing {flag.form()} ({flag.help})" for flag in missing]
    if command.positionals and not arguments.positionals and not alone:
        problems.append(f"missing {command.positionals}")
    if problems:
        raise ConfigError(
            problems[0] if len(problems) == 1 else f"{len(problems)} problems on the command line",
            where=f"pretrainx {command.name}",
            why="\n".join(problems) if len(problems) > 1 else "",
            do=command.form(),
        )
    return arguments


def whole_number(arguments: Arguments, name: str) -> int:
    """The value of a flag as an integer from 0 on; ConfigError otherwise."""
    text = arguments.flags[name]
    if not re.fullmatch(r"\d+", text):
        raise ConfigError(
            f"--{name} is a whole number", where="command line", why=f"got {text!r}", do=f"--{name}=N, 0 or more"
        )
    return int(text)


def real_number(arguments: Arguments, name: str) -> float:
    """The value of a flag that is a number >= 0. ConfigError where it is not."""
    text = arguments.flags[name]
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise ConfigError(
            f"--{name} is no number", where=f"--{name}={text}", why="a number from 0 on is needed", do="such as 0.8"
        )
    return value


def _pairs(words: list[str], flags: Mapping[str, Flag]) -> Iterator[tuple[str, str | None, str | None]]:
    """(word, flag name or None for a positional, its value or None) in order."""
    position = 0
    while position < len(words):
        word = words[position]
        position += 1
        if not re.match(r"--?[A-Za-z_]", word):
            yield word, None, None
            continue
        name, equals, value = word.lstrip("-").partition("=")
        if word[1] != "-":  # one dash is no flag of ours; with the dash kept, the name is no flag's
            yield word, "-" + name, value
            continue
        valueless = name in flags and not flags[name].metavar
        if not equals:
            following = position < len(words) and not words[position].startswith("--")
            value = words[position] if following and not valueless else None
            position += value is not None
        yield word, name, value


def _nearest_flag(name: str, flags: Mapping[str, Flag], command: Command) -> str:
    section, dot, key = name.lstrip("-").partition(".")
    if dot and command.overrides:
        near = f"--config.{key}" if nearest(section, ["config"]).startswith("did") else f"--config.{section}.{key}"
        return f"did you mean {near}?"
    bare = name.lstrip("-").replace("-", "_")
    if command.overrides and bare in _TRAIN_KEYS:
        return f"did you mean --config.train.{bare}?"
    if bare in flags:
        return f"did you mean --{bare}?"
    hint = nearest(bare, flags)
    return hint.replace("'", "--", 1).replace("'", "") if hint.startswith("did") else hint


def _meant(word: str, flags: Mapping[str, Flag], command: Command) -> str:
    """Advice for a positional argument where none is taken, such as `steps=3` without its `--config.train.`."""
    key, equals, value = word.partition("=")
    if not equals:
        if command.overrides and re.search(r"\.(py|json)(:|$)", word):
            return f"did you mean --config={word}?"
        return "every argument is written --key=value"
    if key in flags:
        return f"did you mean --{word}?"
    if not command.overrides:
        return "every argument is written --key=value"
    path = key.removeprefix("config.")
    if "." not in path:
        path = f"train.{path}" if path in _TRAIN_KEYS else f"SECTION.{path}" if path != "seed" else path
    return f"did you mean --config.{path}={value}?"
