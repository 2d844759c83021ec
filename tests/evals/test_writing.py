"""Captions: the nucleus, and beam search against all sequences there are."""

import itertools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contract.pairs import CASES as PAIRS
from contract.pairs import LAST, WIDTH
from pretrainx.core.axes import unbox
from pretrainx.evals import beam, continuation
from pretrainx.objectives.objective import Objective
from pretrainx.parallel.mesh import MeshConfig, make_mesh
from pretrainx.parallel.rules import Rules
from pretrainx.training import state as states

END, FIRST = 1, 0


def one_device():
    return Rules(make_mesh(MeshConfig(1), jax.devices()[:1]))


@dataclass(frozen=True)
class Chain(Objective):
    """Each token's chances are a row of the table source["table"] [B, V, V]: the whole distribution is known."""

    def cache(self, params, extras, rows, length, source=None):
        return jnp.asarray(source["table"])[None, :, :, :, None]  # five axes, rows the second, as keys and values have

    def decode(self, params, extras, tokens, cache):
        table = cache[0, :, :, :, 0]
        return jnp.take_along_axis(table, tokens[:, -1:, None], 1), cache


def likeliest(table, length, power):
    """The best sequence after FIRST by trying all: with its end it ends, without one it has `length` tokens."""
    logp, size = np.asarray(jax.nn.log_softmax(table)), len(table)
    best = (-np.inf, None)
    for count in range(1, length + 1):
        for tokens in itertools.product(range(size), repeat=count):
            ends = [place for place, token in enumerate(tokens) if token == END]
            if ends and ends[0] != count - 1 or not ends and count < length:
                continue
            total = sum(logp[a, b] for a, b in zip((FIRST, *tokens), tokens, strict=False))
            written = count - bool(ends)
            if total / max(written, 1) ** power > best[0]:
                best = total / max(written, 1) ** power, [token for token in tokens if token != END]
    return best[1]


@pytest.mark.parametrize("power", [0.0, 0.7])
def test_a_wide_beam_finds_the_likeliest_sequence(power):
    rng = np.random.default_rng(3)
    table = 2 * rng.standard_normal((5, 4, 4)).astype(np.float32)
    found = beam.search(Chain(), one_device(), {}, {}, FIRST, 4, 256, END, {"table": table}, power)
    for row, text in zip(table, found, strict=True):
        assert text.tolist() == likeliest(row, 4, power)


def test_one_beam_is_greedy():
    objective = PAIRS["coca"]()
    with jax.enable_x64(True):
        batch = states.example_batch(objective, 3)
        params = jax.tree.map(lambda x: 20 * x, unbox(objective.init(jax.random.key(0), batch)))
        rng = np.random.default_rng(0)
        source = {"image": rng.integers(0, 256, (3, 8, 8, 3)).astype(np.uint8)}
        shared = objective, one_device(), params, {}
        single = beam.search(*shared, 2, WIDTH - 1, 1, 1, source)
        greedy = continuation.generate(*shared, [np.array([2])] * 3, WIDTH - 1, [0.0] * 3, 1, 0, source)
    assert [text.tolist() for text in single] == [text.tolist() for text in greedy]
    assert any(len(text) for text in single) and max(map(max, filter(len, single))) < LAST


def test_a_beam_is_never_less_likely_than_greedy():
    rng = np.random.default_rng(0)
    table = rng.standard_normal((40, 6, 6)).astype(np.float32)
    logp = np.asarray(jax.nn.log_softmax(table))

    def score(row, text, length):
        whole = [*text.tolist(), END][:length]
        return sum(logp[row, a, b] for a, b in zip((FIRST, *whole), whole, strict=False))

    search = lambda beams: beam.search(Chain(), one_device(), {}, {}, FIRST, 7, beams, END, {"table": table})
    narrow, wide = search(1), search(8)
    gains = [score(row, wide[row], 7) - score(row, narrow[row], 7) for row in range(40)]
    assert min(gains) > -1e-4 and max(gains) > 0.5


def test_nucleus_keeps_the_fewest_likeliest_tokens():
    shares = np.array([[0.5, 0.3, 0.15, 0.05], [0.4, 0.3, 0.2, 0.1]], np.float32)
    kept = lambda top_p, heat=1.0: np.asarray(
        continuation.nucleus(jnp.log(shares), jnp.full(2, heat), top_p) > -1e30
    ).tolist()
    assert kept(0.79) == [[True, True, False, False], [True, True, True, False]]
    assert kept(0.1) == [[True, False, False, False], [True, False, False, False]]
    assert kept(0.49, heat=0.25) == [[True, False, False, False], [True, False, False, False]]  # 0.87 of the first


def test_drawn_tokens_come_from_the_nucleus():
    table = np.tile(np.log(np.array([0.02, 0.02, 0.5, 0.3, 0.16], np.float32)), (200, 5, 1))
    shared = Chain(), one_device(), {}, {}, [np.array([FIRST])] * 200, 6, [1.0] * 200, END, 0, {"table": table}
    drawn = np.concatenate(continuation.generate(*shared, 0.75))
    assert set(drawn.tolist()) == {2, 3}
    assert set(np.concatenate(continuation.generate(*shared)).tolist()) == {0, 2, 3, 4}
