"""Tokens on their way to experts and back: into places that a row keeps for each expert, or sorted and sent over the devices.

Both only move rows of arrays. A move and its way back are each other's gradient, so neither direction needs a scatter.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from pretrainx.parallel.rules import device, in_force
from pretrainx.parallel.sequence import on_each_device

Kernels = dict[str, jax.Array]


def places(chosen: jax.Array, real: jax.Array, count: int, capacity: int) -> tuple[jax.Array, jax.Array]:
    """Which of the `capacity` places that a row has for each of `count` experts E its choices take: (slots, sources).

    chosen: int32[B, T, K], the experts of each token; real: bool[B, T], the tokens that take places at all.
    slots int32[B, T K]: the place e C + c of each choice, -1 where it has none. sources int32[B, E C]: the choice t K + k in
    each place, -1 where it is empty. Places are taken in the order of the tokens, and by a token's first choice before its
    second: what is dropped depends on the tokens before it alone.
    """
    (rows, length, choices), empty = chosen.shape, -1
    wanted = jnp.where(real[..., None], chosen, count).reshape(rows, length * choices)
    order = jnp.argsort(wanted, axis=1, stable=True)
    sizes = jax.nn.one_hot(wanted, count + 1, dtype=jnp.int32).sum(1)
    begins = jnp.cumsum(sizes, 1) - sizes  # of each expert's choices among the sorted ones
    place = jnp.arange(capacity)
    taken = place < sizes[:, :count, None]
    at = jnp.where(taken, begins[:, :count, None] + place, 0).reshape(rows, -1)
    sources = jnp.where(taken.reshape(rows, -1), jnp.take_along_axis(order, at, 1), empty)
    rank = jnp.argsort(order, axis=1) - jnp.take_along_axis(begins, wanted, 1)
    return jnp.where((rank < capacity) & (wanted < count), wanted * capacity + rank, empty), sources


def _taken(x: jax.Array, index: jax.Array) -> jax.Array:
    """[B, M, D]: rows `index` int32[B, M] of x [B, N, D], zeros where it is negative."""
    found = jnp.take_along_axis(x, jnp.maximum(index, 0)[..., None], axis=1, mode="promise_in_bounds")
    return jnp.where(index[..., None] >= 0, found, 0)


@jax.custom_vjp
def sent(x: jax.Array, slots: jax.Array, sources: jax.Array) -> jax.Array:
    """Tokens x [B, T, D] in their places: [B, M, D], zeros in empty ones. slots [B, T K] and sources [B, M]: see `places`."""
    return _taken(x, sources // (slots.shape[1] // x.shape[1]))


def _sent_forward(x, slots, sources):
    return sent(x, slots, sources), (slots, x.shape)


def _sent_backward(saved, gradient):
    slots, (rows, length, width) = saved
    return _taken(gradient, slots).reshape(rows, length, -1, width).sum(2), None, None


sent.defvjp(_sent_forward, _sent_backward)


@jax.custom_vjp
def returned(y: jax.Array, slots: jax.Array, sources: jax.Array) -> jax.Array:
    """What stands in the places y [B, M, D], for each choice: [B, T K, D], zeros for those without a place."""
    return _taken(y, slots)


returned.defvjp(
    lambda y, slots, sources: (_taken(y, slots), sources),
    lambda sources, gradient: (_taken(gradient, sources), None, None),
)


def ragged(
    apply: Callable[[jax.Array, jax.Array, Kernels], jax.Array],
    x: jax.Array,
    gates: jax.Array,
    chosen: jax.Array,
    kernels: dict[str, tuple[jax.Array, tuple[str, ...]]],
    count: int,
) -> jax.Array:
    """sum_k gates_k apply(x) of the expert chosen_k, none dropped: [B, T, D] in the dtype of the gates.

    x: [B, T, D]; gates: [B, T, K]; chosen: int32[B, T, K]. apply(rows [N, D], sizes int32[E], kernels) -> [N, D]: the first
    sizes[0] rows are of the first expert, and so on; what it makes of parts of the inner width F adds up to the whole.
    kernels: {name: (array, logical names)}, the names "experts" (of size `count`), "embed" and "mlp". On a mesh every device
    sorts its own tokens, sends them to the devices that hold their experts, and gets them back; kernels that are split over
    `embed` are gathered first, over `mlp` they stay apart.
    """
    rules, names = in_force(), ("batch", "length", None)
    arrays = {name: array for name, (array, _) in kernels.items()}
    whole = lambda axes: tuple(None if axis == "embed" else axis for axis in axes)
    specs = {name: rules and rules.spec(whole(axes), array.shape) for name, (array, axes) in kernels.items()}
    experts, inner = _split(kernels, specs, "experts"), _split(kernels, specs, "mlp")

    def on_device(arrays, x, gates, chosen):
        own = lambda rows, sizes: apply(rows, sizes, arrays)
        sent_out = lambda rows, sizes: _exchanged(own, rows, sizes, gates.shape[2], experts)
        y = _sorted(sent_out if experts else own, x, gates, chosen, count)
        return jax.lax.psum(y, inner) if inner else y

    tokens = {"x": x, "gates": gates, "chosen": chosen}
    return on_each_device(on_device, tokens, dict.fromkeys(tokens, names), "x", (arrays, specs))


def _split(kernels: dict[str, Any], specs: dict[str, PartitionSpec | None], wanted: str) -> tuple[str, ...]:
    """The mesh axes that the logical axis `wanted` of the kernels is really split over."""
    for name, (_, axes) in kernels.items():
        part = specs[name] and specs[name][axes.index(wanted)]
        if part:
            return part if isinstance(part, tuple) else (part,)
    return ()


def _by_expert(ids: jax.Array, count: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(order, back, sizes) of expert numbers int32[N]: the rows sorted by expert, where each went, and how many each has."""
    order = jnp.argsort(ids, stable=True)
    return order, jnp.argsort(order), jax.nn.one_hot(ids, count, dtype=jnp.int32).sum(0)


def _sorted(apply: Callable, x: jax.Array, gates: jax.Array, chosen: jax.Array, count: int) -> jax.Array:
    """The same with apply(rows, sizes), for the tokens of one device."""
    order, back, sizes = (each[None] for each in _by_expert(chosen.reshape(-1), count))
    rows = sent(x.reshape(1, -1, x.shape[-1]), back, order)
    y = returned(apply(rows[0], sizes[0])[None], back, order)
    return (y.reshape(*chosen.shape, -1) * gates[..., None]).sum(2)


def _exchanged(apply: Callable, rows: jax.Array, sizes: jax.Array, choices: int, axes: tuple[str, ...]) -> jax.Array:
    """What `apply` makes of rows [N, D], sorted by expert and int32[E] of each, where the devices along `axes` hold E / ways
    experts each, in order. choices: K of each token. Room is kept for the most that can come: of every token of all devices
    min(K, E / ways) choices."""
    ways, me = jax.lax.axis_size(axes), jax.lax.axis_index(axes)
    own = len(sizes) // ways
    room = ways * rows.shape[0] // choices * min(choices, own)
    all_sizes = jax.lax.all_gather(sizes, axes).reshape(ways, ways, own)  # [sender, receiver, expert of it]
    between = all_sizes.sum(-1)
    outgoing, incoming = between[me], between[:, me]
    there = (jnp.cumsum(between, 0) - between)[me]  # where this device's rows begin on each receiver
    came = _exchange(rows, room, outgoing, incoming, there, axes)

    # They came by sender, and of each by expert: sort them by expert; what was not filled goes to the end.
    of_each, number = all_sizes[:, me].reshape(-1), jnp.arange(room)
    ids = jnp.repeat(jnp.tile(jnp.arange(own), ways), of_each, total_repeat_length=room)
    order, back, mine = (each[None] for each in _by_expert(jnp.where(number < of_each.sum(), ids, own), own))
    done = returned(apply(sent(came[None], back, order)[0], mine[0])[None], back, order)[0]

    home = (jnp.cumsum(between, 1) - between)[:, me]  # where what a sender gets back begins there
    return _exchange(done, rows.shape[0], incoming, outgoing, home, axes)


def _exchange(
    rows: jax.Array, room: int, outgoing: jax.Array, incoming: jax.Array, there: jax.Array, axes: tuple[str, ...]
) -> jax.Array:
    """[room, D]: what all devices sent to this one, in their order, then zeros.

    rows [N, D] hold outgoing[0] rows for the first device, and so on; incoming: how many come from each; there: at which row of
    each receiver this device's begin.
    """
    begins = jnp.cumsum(outgoing) - outgoing
    if device()[0].platform != "cpu":
        out = jnp.zeros((room, rows.shape[1]), rows.dtype)
        return jax.lax.ragged_all_to_all(rows, out, begins, outgoing, there, incoming, axis_name=axes)
    # A CPU has no ragged exchange: all is gathered, and each takes its own.
    me, ends, place = jax.lax.axis_index(axes), jnp.cumsum(incoming), jnp.arange(room)
    sender = jnp.minimum(jnp.searchsorted(ends, place, side="right"), len(incoming) - 1)
    at = jax.lax.all_gather(begins, axes)[sender, me] + place - (ends - incoming)[sender]
    everything = jax.lax.all_gather(rows, axes)
    return jnp.where((place < ends[-1])[:, None], everything[sender, jnp.where(place < ends[-1], at, 0)], 0)
