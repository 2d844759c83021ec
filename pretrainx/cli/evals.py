"""The command that evaluates a run."""

from __future__ import annotations

from typing import Any

from pretrainx.cli.arguments import Arguments, Command, Flag, whole_number
from pretrainx.core.errors import ConfigError


def _eval(arguments: Arguments) -> int:
    from pretrainx.runs.evals import evaluate

    given = {name: whole_number(arguments, name) for name in ("step", "demonstrations") if name in arguments.flags}
    names = tuple(filter(None, arguments.flags.get("evals", "").split(",")))
    files = {name: arguments.flags[name] for name in ("choices", "demonstrations_from") if name in arguments.flags}
    if "task" in arguments.flags:
        from pretrainx.cli.config_file import load

        given["task"] = load(arguments.flags["task"])
    return evaluate(arguments.flags["workdir"], names=names, evals=_changes(arguments), **files, **given)


def _changes(arguments: Arguments) -> dict[str, Any]:
    """The overrides of config.evals. ConfigError for those of anything else: a checkpoint is evaluated as it was trained."""
    from pretrainx.cli.config_file import overridden

    foreign = [key for key, _ in arguments.overrides if not key.startswith("evals.")]
    if foreign:
        raise ConfigError(
            "only config.evals can be changed for an evaluation",
            where=", ".join(f"--config.{key}" for key in foreign),
            why="the rest is the configuration that the checkpoint was trained with",
            do="leave it out, or give keys such as --config.evals.representations.probe=logistic",
        )
    return overridden({}, arguments.overrides).get("evals", {})


COMMANDS = (
    Command(
        "eval",
        "evaluate a checkpoint of a run (--config.evals.KEY=VALUE changes how): print a table, and add it to DIR/evals.jsonl",
        _eval,
        (
            Flag("workdir", "the directory of a run, or of an imported model", "DIR", required=True),
            Flag("step", "the checkpoint (default: the newest)", "N"),
            Flag(
                "evals",
                "held_out, trigram, pseudo_perplexity, fill_in, sampled, representations, image_text, task, choices "
                "(default: all that apply); made only when named: fisher, forgetting, pruning, membership, transfer",
                "NAME,...",
            ),
            Flag(
                "choices",
                "multiple choice: a question, its choices and the number of the right one a line",
                "FILE.jsonl",
            ),
            Flag("task", "of transfer: the config of a run that starts from this one", "FILE[:ARG]"),
            Flag("demonstrations", "solved questions in front of each, drawn three times (default 0)", "K"),
            Flag(
                "demonstrations_from",
                "draw them from these questions (default: the others of --choices)",
                "FILE.jsonl",
            ),
        ),
        overrides=True,
    ),
)
