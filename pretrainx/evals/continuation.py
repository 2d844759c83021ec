"""Continuations of fixed prompts by a causal language model, greedy and sampled: what the model has learnt, to read."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from pretrainx.core import random
from pretrainx.objectives.objective import Objective
from pretrainx.parallel.rules import Rules


@functools.partial(jax.jit, static_argnums=(0, 1))
def continued(objective: Objective, rules: Rules, params, extras, tokens, starts, temperatures, key) -> jax.Array:
    """tokens int32[B, T], of which row b holds starts[b], filled up to T; temperature 0 takes the likeliest token.

    The whole row is computed for each new token: no cache, so any objective with `logits` serves, wrapped or not.
    """
    with rules.bound():

        def fill(position, tokens):
            logits = objective.outputs(params, extras, {"tokens": tokens}, ("logits",))["logits"][:, position - 1]
            noise = jax.random.gumbel(jax.random.fold_in(key, position), logits.shape)
            # The maximum of logits / temperature + Gumbel noise is a draw from the softmax.
            drawn = jnp.argmax(logits + temperatures[:, None] * noise, axis=-1).astype(tokens.dtype)
            return tokens.at[:, position].set(jnp.where(position < starts, tokens[:, position], drawn))

        return jax.lax.fori_loop(1, tokens.shape[1], fill, tokens)


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
        tokens = np.full((len(ids), self.length), self.end, np.int32)
        for row, prompt in zip(tokens, ids, strict=True):
            row[: len(prompt)] = prompt
        starts = np.array([len(row) for row in ids], np.int32)
        temperatures = np.array([temperature for _, temperature in pairs], np.float32)
        key = random.stream(self.seed, random.EVALUATE, 2**31 - 1)
        filled = continued(self.objective, self.rules, params, extras, tokens, starts, temperatures, key)
        parts = []
        for (prompt, temperature), start, row in zip(pairs, starts, np.asarray(filled), strict=True):
            ends = np.flatnonzero(row[start:] == self.end)
            row = row[: start + ends[0]] if len(ends) else row
            kind = "greedy" if temperature == 0 else f"temperature {temperature:g}"
            parts.append(f"=== {prompt!r}, {kind} ===\n{self.decode(row)}\n")
        return "\n".join(parts)
