"""Text that a run continues a prompt with."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pretrainx.core.errors import ConfigError
from pretrainx.evals import continuation
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

    Temperature 0 takes the likeliest token each time. An empty prompt begins where documents begin: after the end of
    another. ConfigError where the model has no positions for so many tokens.
    """
    run = load(workdir, step)
    end = run.tokenizer.vocabulary.special("eos")
    ids = run.tokenizer.encode_batch([prompt])[0]
    ids = ids if len(ids) else np.array([end])
    model = run.config.model
    longest = model.max_length or run.config.data.length
    if model.positions == "learned" and len(ids) + max_tokens > longest:
        raise ConfigError(
            "the model has no positions for so many tokens",
            where="--max_tokens",
            why=f"{len(ids)} tokens of prompt and {max_tokens} new ones, the position table has {longest} rows",
            do=f"--max_tokens={max(longest - len(ids), 1)}, or a shorter prompt",
        )
    found = continuation.generate(
        run.objective, run.rules, run.params, run.extras, [ids], max_tokens, [temperature], end, seed
    )[0]
    # Together, since a character may begin in the prompt's last token; apart by length of the prompt's text.
    known = run.tokenizer.decode(ids)
    return known, run.tokenizer.decode(np.concatenate([ids, found]))[len(known) :]
