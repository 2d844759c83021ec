"""A caption that a run writes for a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pretrainx.adapt.wrapper import innermost
from pretrainx.core.errors import ConfigError, DataError
from pretrainx.core.pairs import Pairs
from pretrainx.data.decoding import BadPictureError, decode, limited
from pretrainx.evals import beam, continuation
from pretrainx.runs.load import Run, load


def caption(
    workdir: str | Path,
    image: str | Path,
    prompt: str = "",
    max_tokens: int = 0,
    temperature: float = 0.0,
    seed: int = 0,
    step: int | None = None,
    beams: int = 0,
    top_p: float = 1.0,
) -> tuple[str, str]:
    """(how the caption was told to begin, how it goes on) of a picture file.

    Greedily at temperature 0, else drawn from the likeliest tokens that together have `top_p`; with `beams` the likeliest whole
    caption that so many find. max_tokens: 0 is as many as there are positions for. Raises ConfigError where the run writes no
    captions or is asked for what does not go together, DataError for a picture that cannot be decoded.
    """
    run = load(workdir, step)
    writer = innermost(run.objective)
    if not (isinstance(run.about, Pairs) and run.objective.decodes):
        raise ConfigError(
            "the run's model does not write captions",
            where="--image",
            why=f"{workdir}: its objective is {type(writer).__name__}",
            do="name a run of the objective coca, or leave --image out",
        )
    if beams and (prompt or temperature):
        raise ConfigError(
            "a beam search neither draws nor goes on with a prompt",
            where="--beams",
            why=f"prompt {prompt!r}, temperature {temperature:g}",
            do="leave the others out, or --beams",
        )
    if not 0 < top_p <= 1 or top_p < 1 and not temperature:
        raise ConfigError(
            "nothing can be drawn so",
            where=f"--top_p={top_p:g}",
            why="it is a probability above 0" if temperature else "the likeliest token is taken each time",
            do="--temperature=1 --top_p=0.9",
        )
    known, source = run.tokenizer.vocabulary, {"image": pixels(run, Path(image))}
    first, end = known.special("bos"), known.special("eos")
    begin = np.concatenate([[first], run.tokenizer.encode_batch([prompt])[0]]).astype(np.int32)
    room = writer.length - len(begin)
    if room < max(max_tokens, 1):
        raise ConfigError(
            "the model has no positions for so many tokens",
            where="--max_tokens" if max_tokens else "--prompt",
            why=f"{len(begin)} tokens are given, and captions are of {writer.length}",
            do=f"--max_tokens={room}" if room > 0 else "a shorter prompt",
        )
    shared, room = (run.objective, run.rules, run.params, run.extras), max_tokens or room
    if beams:
        (found,) = beam.search(*shared, first, room, beams, end, source)
    else:
        (found,) = continuation.generate(*shared, [begin], room, [temperature], end, seed, source, top_p)
    whole = run.tokenizer.decode(np.concatenate([begin[1:], found]))
    return (prompt, whole[len(prompt) :]) if whole.startswith(prompt) else ("", whole)


def pixels(run: Run, path: Path) -> np.ndarray:
    """uint8[1, S, S, C] of a picture file, in the form of the run's."""
    images, limit = run.about.images, run.config.data.pixel_limit
    try:
        with limited(limit):
            return decode(path.read_bytes(), images.size, images.channels, limit)[None]
    except (OSError, BadPictureError) as error:
        raise DataError(
            "a picture cannot be used", where=f"--image={path}", why=str(error), do="name a picture file"
        ) from error
