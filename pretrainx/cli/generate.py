"""The command that lets a run write."""

from __future__ import annotations

from pretrainx.cli.arguments import Arguments, Command, Flag, real_number, whole_number


def _generate(arguments: Arguments) -> int:
    from pretrainx.runs.generate import generate

    given = {name: whole_number(arguments, name) for name in ("max_tokens", "seed", "step") if name in arguments.flags}
    if "temperature" in arguments.flags:
        given["temperature"] = real_number(arguments, "temperature")
    print("".join(generate(arguments.flags["workdir"], arguments.flags["prompt"], **given)))
    return 0


COMMANDS = (
    Command(
        "generate",
        "continue a prompt with a run's model, or write for it",
        _generate,
        (
            Flag("workdir", "the directory of a run, or of an imported model", "DIR", required=True),
            Flag(
                "prompt",
                "the text to continue, or the source, with <S0>, <S1> or <mask> for what is hidden; may be empty",
                "TEXT",
                required=True,
                may_be_empty=True,
            ),
            Flag("max_tokens", "how many tokens at most (default 128)", "N"),
            Flag("temperature", "0 takes the likeliest token; default 0.8", "T"),
            Flag("seed", "of the draws (default 0)", "S"),
            Flag("step", "the checkpoint (default: the newest)", "N"),
        ),
    ),
)
