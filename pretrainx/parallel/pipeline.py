"""A stack of layers whose parts lie on different devices: pieces of the batch travel through them, one part behind another.

GPipe (Huang et al. 2019, section 2.2) where each stage holds neighbouring layers; the circular schedule (Narayanan et al.
2021, section 2.2) where it holds several groups of them and a piece passes it as many times. Only the forward pass is
written: its transpose is the backward schedule, with the pieces in the opposite order.

Costs beside the bubble: a piece of activations goes to the next stage at each tick; at both ends of the stack the rows are
gathered over the stages, since the rest of the model divides them among these too. The circular schedule moves the layers'
weights to the stages that use them, once per step, and their gradients back: parameters lie in the order of layers, whatever
the schedule.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from pretrainx.parallel.rules import Rules, constrain, device, in_force

STAGE = "stage"
# What costs next to nothing to make again: a weight that was cut out or rounded for one tick would be kept for each of them.
CHEAP = ("convert_element_type", "dynamic_slice", "squeeze", "reshape", "broadcast_in_dim")


def bubble(stages: int, microbatches: int, rounds: int = 1) -> float:
    """The share of ticks in which a stage has nothing to do: (S - 1) / (M R + S - 1)."""
    return (stages - 1) / (microbatches * rounds + stages - 1)


def wanted_pieces(rules: Rules) -> int:
    """Into how many pieces these rules cut the rows that go through a stack."""
    return rules.config.microbatches or rules.mesh.shape[STAGE]


def inside(rules: Rules) -> Rules:
    """The rules as they are within a stage, where neither rows nor layers are split over stages."""
    return rules.without(STAGE)


def pieces(rows: int, depth: int) -> int:
    """Into how many pieces the rules in force cut so many rows before a stack of `depth` layers; 0: it is no pipeline.

    As many as wanted, or fewer where the rows of an evaluation do not divide: a larger bubble, the same numbers. None where
    layers or rows do not divide over the stages at all.
    """
    rules = in_force()
    if rules is None or STAGE not in rules.axes("layers") or rules.mesh.shape[STAGE] == 1:
        return 0
    stages, rounds, ways = rules.mesh.shape[STAGE], rules.config.rounds, inside(rules).batch_ways()
    found = math.gcd(wanted_pieces(rules), rows if rows % ways else rows // ways)
    return 0 if depth % (stages * rounds) or (rounds > 1 and found % stages) else found


def through_stages(
    apply: Callable[[Any, jax.Array, jax.Array, Any], tuple[jax.Array, Any]],
    params: Any,
    x: jax.Array,
    numbers: jax.Array,
    around: Any,
    policy: Callable | None = None,
) -> tuple[jax.Array, Any]:
    """What L layers make of x [B, ...], the same as `apply(params, x, numbers, around)` without a pipeline.

    Args:
      apply: (params, x, numbers, around) -> (x, said) for some of the layers and some of the rows; said: a tree of what each
        layer says of each row, [layers, rows, ...].
      params: a tree of arrays [L, ...] laid over the stages; numbers: int32[L].
      around: a tree of what layers see beside x. A leaf [G, ...] holds something for each of G groups of neighbouring rows;
        G is B where each row has its own, and 1 where all share it.
      policy: what the backward pass finds in memory of a tick beside its input, as `jax.checkpoint` takes it; None: everything.

    There must be `pieces` of these rows. Row r goes with piece r mod M, as training/accumulation.py divides rows.
    """
    rules, rows = in_force(), x.shape[0]
    stages, rounds, count = rules.mesh.shape[STAGE], rules.config.rounds, pieces(rows, len(numbers))
    leaves, tree = jax.tree.flatten(around)
    with inside(rules).bound():
        divided = _divided(constrain(x, "batch", *[None] * (x.ndim - 1)), count)
        leaves = [_of_pieces(leaf, rows, count) for leaf in leaves]
    crossing, crossed = _across((divided, [leaf for leaf, _ in leaves]))
    travels = [travelling for _, travelling in leaves]
    turns = _turns(stages, count, rounds)
    policy = policy or (lambda primitive, *_, **__: primitive.name not in CHEAP)

    def of_stage(stage, layers, crossing):
        stage, (divided, leaves) = stage[0], crossed(crossing)
        layers = jax.tree.map(partial(_dealt, stages, rounds), layers)
        # What this stage is at in each tick; before its first piece and behind its last it does one of them in vain.
        turn = jnp.clip(jnp.arange(count * rounds + stages - 1) - stage, 0, count * rounds - 1)
        piece, passed = _order(turn, stages, rounds)
        fresh = (stage == 0) & (passed == 0)

        @partial(jax.checkpoint, policy=policy, prevent_cse=False)
        def work(layers, passed, x, leaves):
            held, numbers = jax.tree.map(lambda leaf: leaf[0] if rounds == 1 else leaf[passed], layers)
            return apply(held, x, numbers, jax.tree.unflatten(tree, leaves))

        def tick(arriving, given):
            fresh, new, passed, own = given
            own = iter(own)
            around = [next(own) if moving else leaf for leaf, moving in zip(leaves, travels, strict=True)]
            y, said = work(layers, passed, jnp.where(fresh, new, arriving), around)
            return jax.lax.ppermute(y, STAGE, [(at, (at + 1) % stages) for at in range(stages)]), (y, said)

        own = [leaf[piece] for leaf, moving in zip(leaves, travels, strict=True) if moving]
        # Until a piece arrives a stage works on this one: finite, whatever the layers are.
        first = jax.lax.stop_gradient(divided[0])
        with inside(rules).bound():
            _, (done, said) = jax.lax.scan(tick, first, (fresh, divided[piece], passed, own))
        ended, narrowed = _across(jnp.where(stage == stages - 1, done[turns[-1] + stages - 1], 0))
        return narrowed(jax.lax.psum(ended, STAGE)), jax.tree.map(lambda leaf: leaf[turns + stage][:, None], said)

    def joined(leaf):
        """[R, S, M, layers, B / M, ...] -> [L, B, ...]"""
        leaf = jnp.moveaxis(leaf, 2, 4)
        return leaf.reshape(len(numbers), rows, *leaf.shape[5:])

    split, whole = PartitionSpec(STAGE), PartitionSpec()
    done, said = jax.shard_map(
        of_stage,
        mesh=None if jax.sharding.get_abstract_mesh().manual_axes else rules.mesh,
        in_specs=(split, split, whole),
        out_specs=(whole, PartitionSpec(None, STAGE)),
        axis_names={STAGE},
        check_vma=False,
    )(jnp.arange(stages), (params, numbers), crossing)
    with inside(rules).bound():
        done = constrain(done.swapaxes(0, 1).reshape(x.shape), "batch", *[None] * (x.ndim - 1))
    return constrain(done, "batch", *[None] * (x.ndim - 1)), jax.tree.map(joined, said)


def _order(turn, stages: int, rounds: int):
    """(piece, rounds that it has behind it) of a stage's turn number `turn`: so many pieces as stages go through all rounds
    before the next ones set out, and each is back at the first stage just when that is free for it."""
    return turn // (stages * rounds) * stages + turn % stages, turn // stages % rounds


def _turns(stages: int, count: int, rounds: int) -> np.ndarray:
    """int[R, M]: the turn in which a stage does each piece in each round; stage s has its turn t in tick t + s."""
    turn = np.arange(count * rounds)
    piece, passed = _order(turn, stages, rounds)
    turns = np.zeros((rounds, count), int)
    turns[passed, piece] = turn
    return turns


def _across(tree: Any) -> tuple[Any, Callable[[Any], Any]]:
    """(the tree as it is added up over stages, the way back). XLA's CPU compiler aborts at such a sum of bfloat16."""
    if device()[0].platform != "cpu":
        return tree, lambda tree: tree
    narrow = lambda leaf: jnp.issubdtype(leaf.dtype, jnp.floating) and leaf.dtype.itemsize < 4
    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float32) if narrow(leaf) else leaf, tree)
    return wide, lambda wide: jax.tree.map(lambda leaf, like: leaf.astype(like.dtype), wide, tree)


def _divided(x: jax.Array, count: int) -> jax.Array:
    """[B, ...] -> [M, B / M, ...]: piece m holds rows m, m + M, ..."""
    x = x.reshape(x.shape[0] // count, count, *x.shape[1:]).swapaxes(0, 1)
    return constrain(x, None, "batch", *[None] * (x.ndim - 2))


def _of_pieces(leaf: jax.Array, rows: int, count: int) -> tuple[jax.Array, bool]:
    """(the leaf, or [M, ...] with a part for each piece, which of the two) of a leaf [G, ...] for G groups of rows."""
    groups, of_piece = leaf.shape[0], rows // count
    if of_piece % groups == 0:  # a piece has rows of every group, in their order
        return leaf, False
    if groups % of_piece:
        leaf = jnp.repeat(leaf, rows // groups, 0, total_repeat_length=rows)
        groups = rows
    apart = _divided(leaf, groups // of_piece)
    return apart if groups == rows else apart[np.arange(count) * groups // rows], True


def _dealt(stages: int, rounds: int, leaf: jax.Array) -> jax.Array:
    """[L / S, ...], a stage's share of the layers in their order -> [R, L / (S R), ...], what it works on in each round.

    Group g of the layers lies on stage g // R, and is worked on by stage g mod S in round g // S. Each group is sent once.
    """
    held = leaf.reshape(rounds, -1, *leaf.shape[1:])
    if rounds == 1:
        return held
    dealt = []
    for passed in range(rounds):
        parts = []
        for place in range(rounds):
            groups = [(passed * stages + stage, stage) for stage in range(stages)]
            sent = [(group // rounds, stage) for group, stage in groups if group % rounds == place]
            parts += [jax.lax.ppermute(held[place], STAGE, sent)] if sent else []
        dealt.append(sum(parts[1:], parts[0]))  # who is sent nothing has zeros
    return jnp.stack(dealt)
