"""Text that a run continues a prompt with, or writes for one."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from pretrainx.adapt.mixture import Mixture
from pretrainx.adapt.wrapper import Wrapper, innermost
from pretrainx.core.errors import ConfigError
from pretrainx.core.pairs import Pairs
from pretrainx.data.tokenizer import Tokenizer
from pretrainx.evals import continuation
from pretrainx.evals.fill_in import named, writing_on_first
from pretrainx.models.prefixed_decoder import PrefixedDecoder
from pretrainx.objectives.objective import Objective
from pretrainx.objectives.seq2seq import Seq2Seq
from pretrainx.runs.load import load


def generate(
    workdir: str | Path,
    prompt: str,
    max_tokens: int = 128,
    temperature: float = 0.8,
    seed: int = 0,
    step: int | None = None,
) -> tuple[str, str]:
    """(the prompt as the model reads it, what it adds), decoded with a cache of keys and values.

    A decoder goes on with the prompt; a model trained on sources reads it as one (see `source_of`), and what it writes stands
    alone ("", text), sentinels and special tokens by name. Of a mixture the task writes that has learnt how texts go on.
    Temperature 0 takes the likeliest token each time. An empty prompt begins where documents begin: after the end of
    another. ConfigError where the model does not write, or has no positions for so many tokens.
    """
    run = load(workdir, step)
    if isinstance(run.about, Pairs):
        raise ConfigError(
            "the run is of pictures with captions",
            where="--image",
            why="no picture is given to write of",
            do="--image=FILE with a run of the objective coca; those of clip and siglip write nothing",
        )
    if not run.objective.decodes:
        raise ConfigError(
            "the run's model does not write text",
            where=f"{workdir}: config.objective",
            why=f"{type(innermost(run.objective)).__name__} recovers hidden tokens from both sides; "
            "it cannot go on with a text",
            do=f"pretrainx eval --workdir={workdir} --evals=fill_in shows what it fills in",
        )
    end = run.tokenizer.vocabulary.special("eos")
    task, extras = next(each for each in writing_on_first(run.objective, run.extras) if each[0].decodes)
    writer = writer_of(task)
    write = lambda first, source=None: continuation.generate(
        task, run.rules, run.params, extras, [first], max_tokens, [temperature], end, seed, source
    )[0]
    if isinstance(writer, Seq2Seq):
        read = source_of(writer, run.tokenizer, prompt)
        if isinstance(writer.model, PrefixedDecoder):
            check_positions(writer, len(read) + 1, max_tokens, "--max_tokens")
        else:
            check_positions(writer, len(read), 0, "--prompt")
            check_positions(writer, 1, max_tokens, "--max_tokens")
        source = {"source": read[None], "source_length": np.array([len(read)], np.int32)}
        return "", named(write(np.array([writer.begin]), source), run.tokenizer.vocabulary, run.tokenizer.decode)
    ids = run.tokenizer.encode_batch([prompt])[0]
    ids = ids if len(ids) else np.array([end])
    check_positions(writer, len(ids) + len(getattr(writer, "front", ())), max_tokens, "--max_tokens")
    # Together, since a character may begin in the prompt's last token; apart by length of the prompt's text.
    known = run.tokenizer.decode(ids)
    return known, run.tokenizer.decode(np.concatenate([ids, write(ids)]))[len(known) :]


def check_positions(writer: Objective, given: int, new: int, where: str) -> None:
    """ConfigError where so many tokens outgrow the model's table of positions."""
    model, longest = writer.model.config, writer.model.max_length
    if model.positions == "learned" and given + new > longest:
        raise ConfigError(
            "the model has no positions for so many tokens",
            where=where,
            why=f"{given} tokens of prompt and {new} new ones, the position table has {longest} rows",
            do=f"--max_tokens={max(longest - given, 1)}, or a shorter prompt" if new else "a shorter prompt",
        )


def writer_of(objective: Objective) -> Objective:
    """The objective that `cache` and `decode` come from: inside wrappers, and of a mixture the first task that writes."""
    while isinstance(objective, Wrapper | Mixture):
        objective = objective.inner if isinstance(objective, Wrapper) else objective.writer()[1]
    return objective


def source_of(objective: Seq2Seq, tokenizer: Tokenizer, prompt: str) -> np.ndarray:
    """int32[n]: a text as sources are in training.

    <S0>, <S1>, ... in it (span corruption) or <mask> (denoising) stand for what is hidden. Without one, what is hidden is how
    the text goes on, as multiple choice asks too.
    """
    gaps, ids = objective.gaps, []
    for piece in re.split(f"({'|'.join(gaps)})" if gaps else "(?!)", prompt):
        ids += [gaps[piece]] if piece in gaps else tokenizer.encode_batch([piece])[0].tolist()
    if gaps and not set(ids) & set(gaps.values()):
        ids.append(next(iter(gaps.values())))
    return np.array([*objective.front, *ids, *objective.back], np.int32)
