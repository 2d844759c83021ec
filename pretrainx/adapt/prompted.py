"""How rows of a prompt get into a model of text: which arguments of its methods grow by them, and where they are cut off."""

from __future__ import annotations

import inspect
from typing import Any

import jax
import jax.numpy as jnp

from pretrainx.models.decoder import Decoder
from pretrainx.models.encoder import Encoder
from pretrainx.models.encoder_decoder import EncoderDecoder
from pretrainx.models.layers import Embedding
from pretrainx.models.prefixed_decoder import PrefixedDecoder
from pretrainx.objectives.objective import Objective

OF_SOURCES = (EncoderDecoder, PrefixedDecoder)
PROMPTED = (Decoder, Encoder, *OF_SOURCES)
# {method: arguments with a place for each token}
ALONE = {
    "embed": ("tokens", "positions", "types"),
    "blocks": ("positions", "segments", "seen"),
    "routed": ("positions", "segments", "seen", "real"),
    "hidden": (),
    "decode": ("tokens", "seen"),
}
WITH_SOURCE = {
    "embed": ("source", "tokens"),
    "blocks": ("segments",),
    "embed_targets": ("segments",),
    "target_blocks": ("source_segments",),
    "source_hidden": ("segments",),
    "start": ("source_segments",),
}
# What stands there at the places of a prompt: it is real, and seen wherever a prefix is seen both ways.
FRONT = {"tokens": 0, "source": 0, "types": 0, "segments": 1, "source_segments": 1, "seen": True, "real": True}


def read_length(task: Objective) -> int:
    """How many tokens of a row stand behind the prompt."""
    if not isinstance(task.model, OF_SOURCES):
        return task.length
    source, target = task.widths
    return source + target if isinstance(task.model, PrefixedDecoder) else source


def intercept(rows: jax.Array):
    """An interceptor by which the model reads rows [p, D], or [B, p, D], before its tokens, or before its source."""
    within = []  # methods of the model that are being called, the outermost first
    count = rows.shape[-2]

    def intercept(call, args, kwargs, context):
        module, method = context.module, context.method_name
        if type(module) is Embedding and module.name == "token" and within and method == "__call__":
            # Only where tokens are embedded that the prompt stands before: not the targets, not the head.
            return _behind(rows, call(args[0][:, count:])) if within[0] in ("embed", "decode") else call(*args)
        if not isinstance(module, PROMPTED):
            return call(*args, **kwargs)
        of_sources = isinstance(module, OF_SOURCES)
        methods = WITH_SOURCE if of_sources else ALONE
        if method not in methods:
            return call(*args, **kwargs)
        if method == "hidden":
            return call(args[0][:, count:])
        if not within:  # what a method calls was made longer by it
            args, kwargs = (), _longer(module, method, methods[method], count, args, kwargs)
        within.append(method)
        try:
            found = call(*args, **kwargs)
        finally:
            within.pop()
        return found[:, count:] if method == "source_hidden" else found

    return intercept


def _behind(rows: jax.Array, x: jax.Array) -> jax.Array:
    """x [B, T, D] behind the rows"""
    rows = jnp.broadcast_to(rows.astype(x.dtype), (x.shape[0], *rows.shape[-2:]))
    return jnp.concatenate([rows, x], 1)


def _longer(module, method: str, names: tuple[str, ...], count: int, args: tuple, kwargs: dict) -> dict[str, Any]:
    """The arguments by name, those with a place for each token longer by `count` in front."""
    given = inspect.signature(getattr(module, method)).bind(*args, **kwargs).arguments
    for name in names:
        array = given.get(name)
        if array is None:
            continue
        if name == "positions":
            first = jnp.broadcast_to(jnp.arange(count, dtype=array.dtype), (*array.shape[:-1], count))
            given[name] = jnp.concatenate([first, array + count], -1)
        else:
            grown = jnp.pad(array, [(0, 0), (count, 0)], constant_values=FRONT[name])
            # Over the places of a cache, of which there are enough for the prompt.
            given[name] = grown[:, : array.shape[1]] if (method, name) == ("decode", "seen") else grown
    return given
