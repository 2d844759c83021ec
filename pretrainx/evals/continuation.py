"""Continuations of fixed prompts by a causal language model, greedy and sampled: what the model has learnt, to read."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from pretrainx.adapt.mixture import Mixture
from pretrainx.adapt.wrapper import innermost
from pretrainx.core import random
from pretrainx.objectives.objective import Objective
from pretrainx.objectives.prefix_lm import PrefixLm
from pretrainx.parallel import distributed
from pretrainx.parallel.rules import Rules, constrain


@functools.partial(jax.jit, static_argnums=(0, 1, 2), static_argnames="top_p")
def continued(
    objective: Objective,
    rules: Rules,
    known: int,
    params,
    extras,
    tokens,
    starts,
    temperatures,
    end,
    key,
    source=None,
    *,
    top_p: float = 1.0,
) -> jax.Array:
    """tokens int32[B, T], of which row b holds starts[b], filled up to T or to `end`; temperature 0 takes the likeliest token.

    The first `known` tokens (at least 1, at most the fewest that a row holds) are read at once; after them one token at a
    time, with a cache of keys and values. What is not filled must hold `end`. `source`: what is read first. `top_p`: tokens are
    drawn from the likeliest ones that together have this probability (Holtzman et al. 2020).
    """
    with rules.bound():
        cache = objective.cache(params, extras, *tokens.shape, source)
        logits, cache = objective.decode(params, extras, tokens[:, :known], cache)

        def unfinished(carry):
            position, _, _, _, ended = carry
            return (position < tokens.shape[1]) & ~ended.all()

        def fill(carry):
            position, tokens, logits, cache, ended = carry
            noise = jax.random.gumbel(jax.random.fold_in(key, position), logits.shape)
            # The maximum of logits / temperature + Gumbel noise is a draw from the softmax.
            kept = nucleus(logits, temperatures, top_p) if top_p < 1 else logits
            drawn = jnp.argmax(kept + temperatures[:, None] * noise, axis=-1).astype(tokens.dtype)
            given = position < starts
            taken = jnp.where(given, tokens[:, position], jnp.where(ended, end, drawn))
            ended |= ~given & (taken == end)
            logits, cache = objective.decode(params, extras, taken[:, None], cache)
            return position + 1, tokens.at[:, position].set(taken), logits[:, -1], cache, ended

        ended = jnp.zeros(tokens.shape[0], bool)
        tokens = jax.lax.while_loop(unfinished, fill, (known, tokens, logits[:, -1], cache, ended))[1]
        return constrain(tokens, None, None)


def nucleus(logits: jax.Array, temperatures: jax.Array, top_p: float) -> jax.Array:
    """Logits [B, V] with those too low to be drawn that do not belong to the fewest likeliest tokens whose probabilities, at
    these temperatures [B], sum to `top_p` or more; the likeliest always stays."""
    shares = jax.nn.softmax(logits / jnp.maximum(temperatures, 1e-6)[:, None], axis=1)
    falling = -jnp.sort(-shares, axis=1)
    before = jnp.cumsum(falling, 1) - falling  # what the likelier ones have together
    least = jnp.where(before < top_p, falling, jnp.inf).min(1)
    return jnp.where(shares >= least[:, None], logits, jnp.finfo(logits.dtype).min / 2)


def generate(
    objective: Objective,
    rules: Rules,
    params,
    extras,
    prompts,
    max_tokens: int,
    temperatures,
    end: int,
    seed: int,
    source=None,
    top_p: float = 1.0,
) -> list[np.ndarray]:
    """What follows each prompt (int32[n], not empty): at most `max_tokens` ids, without the end id.

    `source`: of objectives with sources, the inputs that are read first, {"source": int32[B, S], "source_length": int32[B]};
    prompts then begin with the decoder's start id. `top_p` as `continued` has it. The same arguments give the same tokens.
    Rows do not depend on each other's prompts, only on their place in the list.
    """
    starts = np.array([len(prompt) for prompt in prompts], np.int32)
    tokens = np.full((len(prompts), int(starts.max()) + max_tokens), end, np.int32)
    for row, prompt in zip(tokens, prompts, strict=True):
        row[: len(prompt)] = prompt
    if reads_both_ways(objective):  # what is read at once is the prefix: of each prompt all of it
        passes = {int(length): starts == length for length in np.unique(starts)}
    else:  # powers of two: few programs for prompts of any length
        passes = {1 << (int(starts.min()).bit_length() - 1): starts > 0}
    key = random.stream(seed, random.EVALUATE, 2**31 - 1)
    temperatures = np.asarray(temperatures, np.float32)
    filled = np.zeros_like(tokens)
    for known, rows in passes.items():
        given = tokens, starts, temperatures, end, key, source
        whole = continued(objective, rules, known, params, extras, *given, top_p=top_p)
        filled[rows] = np.asarray(distributed.settled(whole))[rows]
    found = []
    for start, row in zip(starts, filled, strict=True):
        row = row[start : start + max_tokens]
        ends = np.flatnonzero(row == end)
        found.append(row[: ends[0]] if len(ends) else row)
    return found


def reads_both_ways(objective: Objective) -> bool:
    """Whether the tokens of a prompt see each other both ways, so that it matters how many are read at once."""
    objective = innermost(objective)
    return reads_both_ways(objective.writer()[1]) if isinstance(objective, Mixture) else isinstance(objective, PrefixLm)


@dataclass
class Continuations:
    """Continues each prompt greedily and by sampling, always with the same key, so that steps can be compared."""

    objective: Objective
    rules: Rules
    seed: int
    encode: Callable[[str], np.ndarray]
    decode: Callable[[np.ndarray], str]
    end: int
    prompts: tuple[str, ...]
    length: int
    temperature: float

    def __call__(self, params, extras) -> str:
        """The text of a sample file."""
        pairs = [(prompt, temperature) for prompt in self.prompts for temperature in (0.0, self.temperature)]
        ids = [np.asarray(self.encode(prompt))[-(self.length // 2) :] for prompt, _ in pairs]
        # An empty prompt begins where documents begin: after the end of another.
        ids = [row if len(row) else np.array([self.end]) for row in ids]
        found = generate(
            self.objective,
            self.rules,
            params,
            extras,
            ids,
            self.length - max(map(len, ids)),
            [temperature for _, temperature in pairs],
            self.end,
            self.seed,
        )
        parts = []
        for (prompt, temperature), known, new in zip(pairs, ids, found, strict=True):
            kind = "greedy" if temperature == 0 else f"temperature {temperature:g}"
            parts.append(f"=== {prompt!r}, {kind} ===\n{self.decode(np.concatenate([known, new]))}\n")
        return "\n".join(parts)
