"""The commands, and what a person sees when one fails: a single block, last on stderr, and its exit code."""

from __future__ import annotations

import logging
import sys
import traceback
from typing import Any

from pretrainx.cli import (
    checkpoints,
    data,
    evals,
    generate,
    interop,
    plan,
    runs,
    scaling_fit,
    scaling_plan,
    scaling_predict,
    scaling_run,
    scaling_transfer,
)
from pretrainx.cli.arguments import EVERYWHERE, Command, find, parse
from pretrainx.core.errors import ConfigError, Interrupted, OutOfMemoryError, PretrainxError

# One module per family of commands; a name of two words ("data prepare") is a family and a command of it.
COMMANDS = {
    command.name: command
    for module in (
        runs,
        plan,
        evals,
        generate,
        data,
        checkpoints,
        interop,
        scaling_fit,
        scaling_plan,
        scaling_predict,
        scaling_run,
        scaling_transfer,
    )
    for command in module.COMMANDS
}


def main(argv: list[str] | None = None) -> int:
    """Runs one command line (default: the process's) and returns its exit code. Never raises but SystemExit."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(line_buffering=True)  # a log file shows each line at once, and a kill loses none
    try:
        return _dispatch(words)
    except PretrainxError as error:
        return _fail(error, with_traceback=debug)
    except KeyboardInterrupt:
        stopped = Interrupted(
            "interrupted",
            where=" ".join(words[:1]) or "pretrainx",
            why="work since the last checkpoint is lost",
            do="run the same command again to resume",
        )
        return _fail(stopped, with_traceback=debug)
    except Exception as error:
        shortage = _out_of_memory(error)
        if shortage is not None:
            return _fail(shortage, with_traceback=debug)
        return _fail(_bug(error), with_traceback=True)


def _dispatch(words: list[str]) -> int:
    everywhere = [f"--{flag.name}" for flag in EVERYWHERE]
    before = 0
    while before < len(words) and words[before] in everywhere:
        before += 1
    if before == len(words):
        if "--help" in words:
            print(_overview())
            return 0
        raise ConfigError(
            "no command is given", where="command line", why="commands: " + ", ".join(COMMANDS), do="pretrainx --help"
        )
    if words[before].startswith("-"):
        raise ConfigError(
            f"the command comes before {words[before]!r}",
            where="command line",
            why="commands: " + ", ".join(COMMANDS),
            do="pretrainx COMMAND --key=value ...",
        )
    name, after = _name(words, before)
    command = find(COMMANDS, name)
    arguments = parse(command, words[:before] + words[after:])
    if "help" in arguments.flags:
        print(_help(command))
        return 0
    return command.run(arguments)


def _name(words: list[str], first: int) -> tuple[str, int]:
    """The command that words[first:] begin with, and the index after it; the second word only where it is part of a name."""
    family = {name.partition(" ")[2] for name in COMMANDS if name.startswith(words[first] + " ")}
    if not family:
        return words[first], first + 1
    second = words[first + 1] if first + 1 < len(words) and not words[first + 1].startswith("-") else ""
    if not second:
        raise ConfigError(
            f"{words[first]!r} is a family of commands",
            where="command line",
            why="known: " + ", ".join(sorted(family)),
            do=f"pretrainx {words[first]} {sorted(family)[0]} --help",
        )
    return f"{words[first]} {second}", first + 2


def _fail(error: PretrainxError, with_traceback: bool) -> int:
    """Called inside an `except`: prints the block, last on stderr, and gives the exit code."""
    sys.stdout.flush()
    if with_traceback:
        traceback.print_exc()
    # Nothing may follow the block: tasks of a failed save are logged when they are collected, often as the process ends.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    company: Any = sys.modules.get("pretrainx.parallel.distributed")  # where it is not loaded, this process is alone
    if company is None or company.leads() or not error.shared:
        print(error.block(), file=sys.stderr, flush=True)
    if company is not None:
        company.leave(error.exit_code)
    return error.exit_code


def _out_of_memory(error: Exception) -> OutOfMemoryError | None:
    """The error that a person can act on, where memory of a device or of the host ran out; else None."""
    jax: Any = sys.modules.get("jax")  # never imported here: where it is not loaded, it raised nothing
    device = jax is not None and isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error)
    if not device and not isinstance(error, MemoryError):
        return None
    detail = next((text for text in str(error).splitlines() if text.strip()), type(error).__name__)
    return OutOfMemoryError(
        "out of memory",
        where="device" if device else "host",
        why=detail[:400],
        do="one of these, cheapest first:\n"
        "--config.train.microbatches=N   twice as many: the same update from smaller pieces\n"
        "--config.model.remat=full --config.model.unroll=1   recompute activations in the backward pass\n"
        "--config.mesh.data=1 --config.mesh.fsdp=-1   shard parameters and optimizer state over all devices",
    )


def _bug(error: Exception) -> PretrainxError:
    frames = traceback.extract_tb(error.__traceback__)
    return PretrainxError(
        f"unexpected {type(error).__name__}: {error}",
        where=f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "",
        why="no check foresaw this, so it is a fault of the program or of code that the config names",
        do="report it with the traceback above",
    )


def _overview() -> str:
    width = max(map(len, COMMANDS))
    rows = [f"  {command.name:<{width}}  {command.help}" for command in COMMANDS.values()]
    return "\n".join(
        ["usage: pretrainx COMMAND --key=value ...", "", *rows, "", "pretrainx COMMAND --help shows its flags."]
    )


def _help(command: Command) -> str:
    flags = (*command.flags, *EVERYWHERE)
    rows = [(flag.form(), flag.help) for flag in flags]
    if command.overrides:
        rows.insert(len(command.flags), ("--config.KEY=VALUE", "override a key, such as --config.train.steps=20"))
    width = max(len(form) for form, _ in rows)
    lines = [f"  {form:<{width}}  {text}" for form, text in rows]
    return "\n".join([f"usage: {command.form()}", "", command.help, "", *lines])
