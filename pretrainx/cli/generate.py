"""The command that lets a run write."""

from __future__ import annotations

from pretrainx.cli.arguments import Arguments, Command, Flag, real_number, whole_number
from pretrainx.core.errors import ConfigError


def _generate(arguments: Arguments) -> int:
    flags, of_picture = arguments.flags, "image" in arguments.flags
    given = {name: whole_number(arguments, name) for name in ("max_tokens", "seed", "step", "beams") if name in flags}
    given |= {name: real_number(arguments, name) for name in ("temperature", "top_p") if name in flags}
    if of_picture:
        from pretrainx.runs.caption import caption

        print("".join(caption(flags["workdir"], flags["image"], flags.get("prompt", ""), **given)))
        return 0
    if stray := sorted({"beams", "top_p"} & given.keys()):
        raise ConfigError(
            f"--{stray[0]} is for captions of pictures",
            where=f"--{stray[0]}",
            why="no picture is given",
            do="--image=FILE",
        )
    if "prompt" not in flags:
        raise ConfigError(
            "there is nothing to go on with", where="--prompt", why="it is missing", do='--prompt=TEXT, or --prompt=""'
        )
    from pretrainx.runs.generate import generate

    print("".join(generate(flags["workdir"], flags["prompt"], **given)))
    return 0


COMMANDS = (
    Command(
        "generate",
        "continue a prompt with a run's model, or write for it, or for a picture",
        _generate,
        (
            Flag("workdir", "the directory of a run, or of an imported model", "DIR", required=True),
            Flag(
                "prompt",
                "the text to continue, or the source, with <S0>, <S1> or <mask> for what is hidden; may be empty",
                "TEXT",
                may_be_empty=True,
            ),
            Flag("image", "a picture to write a caption of, with a run of coca", "FILE"),
            Flag("beams", "of captions: how many beginnings a beam search keeps (default: no search)", "K"),
            Flag(
                "top_p",
                "of captions that are drawn: from the likeliest tokens that together have this probability",
                "P",
            ),
            Flag(
                "max_tokens", "how many tokens at most (default 128; of captions as many as it has positions for)", "N"
            ),
            Flag("temperature", "0 takes the likeliest token; default 0.8, of captions 0", "T"),
            Flag("seed", "of the draws (default 0)", "S"),
            Flag("step", "the checkpoint (default: the newest)", "N"),
        ),
    ),
)
