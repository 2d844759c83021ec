"""Cross-entropy where the vocabulary lies over `tensor` and the length over `context`: nothing as large as logits travels."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pretrainx.core.images import Images
from pretrainx.core.pairs import Pairs
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.models.coca import CocaConfig as CocaModelConfig
from pretrainx.models.coca import CocaTextConfig
from pretrainx.models.decoder import DecoderConfig
from pretrainx.models.encoder import EncoderConfig
from pretrainx.models.encoder_decoder import EncoderDecoderConfig
from pretrainx.models.layers import Precision
from pretrainx.models.vit import VitConfig
from pretrainx.objectives import cross_entropy
from pretrainx.objectives.autoregressive import AutoregressiveConfig
from pretrainx.objectives.coca import CocaConfig
from pretrainx.objectives.cross_entropy import TokenLoss
from pretrainx.objectives.masked_lm import MaskedLmConfig
from pretrainx.objectives.span_corruption import SpanCorruptionConfig
from pretrainx.parallel.mesh import MeshConfig, make_mesh
from pretrainx.parallel.rules import Rules, constrain
from toys.compiled import crossing
from toys.steps import compiled

slow = pytest.mark.slow


def rules_of(**mesh):
    return Rules(make_mesh(MeshConfig(**{"data": 1} | mesh), jax.devices()[: math.prod(mesh.values())]))


ROWS, LENGTH, WIDTH, VOCABULARY, RANK = 4, 24, 6, 32, 2
rng = np.random.default_rng(0)
HIDDEN, TABLE = rng.standard_normal((ROWS, LENGTH, WIDTH)), rng.standard_normal((VOCABULARY, WIDTH))
DOWN, UP = rng.standard_normal((WIDTH, RANK)), rng.standard_normal((RANK, VOCABULARY))
TARGETS = rng.integers(0, VOCABULARY - 3, (ROWS, LENGTH)).astype(np.int32)
WEIGHTS = rng.uniform(0, 1, (ROWS, LENGTH)) * (rng.uniform(size=(ROWS, LENGTH)) > 0.3)
ALL = TokenLoss(z=1e-2, smoothing=0.1)


def total(loss):
    """Of a head tied to a table (its last three rows are padding) with a low-rank update beside it."""

    def of(hidden, table, down, up):
        def head(x):
            logits = constrain(x @ table.T + (x @ down) @ up, "batch", "length", "act_vocab")
            return jnp.where(jnp.arange(VOCABULARY) < VOCABULARY - 3, logits, jnp.finfo(logits.dtype).min / 2)

        outcome, hits = cross_entropy.judged(head, hidden, TARGETS, WEIGHTS, "nll", loss)
        return outcome.totals["nll"], (outcome.per_row["nll"], outcome.metrics, hits)

    return jax.value_and_grad(of, (0, 1, 2, 3), has_aux=True)


@pytest.mark.parametrize(
    "mesh, chunks",
    [
        ({"data": 2, "context": 2, "tensor": 2}, 5),
        pytest.param({"context": 4, "tensor": 2}, 4, marks=slow),
        pytest.param({"data": 2, "fsdp": 2, "tensor": 2}, 3, marks=slow),
        pytest.param({"data": 2, "tensor": 4}, 0, marks=slow),
        pytest.param({"context": 8}, 2, marks=slow),
    ],
    ids=str,
)
def test_a_mesh_is_one_device(mesh, chunks):
    """Values, hits, and gradients of hidden states, table and update, with z and smoothing. Chunks are cut out of what a device
    has of the length, also where they do not divide it: hidden states stay where they are."""
    with jax.enable_x64(True):
        rules, loss = rules_of(**mesh), TokenLoss(chunks, ALL.z, ALL.smoothing)
        arrays = HIDDEN, TABLE, DOWN, UP
        names = ("batch", "length", None), ("vocab", "embed"), ("embed", None), (None, "vocab")
        given = [jax.device_put(x, rules.sharding(name, x.shape)) for x, name in zip(arrays, names, strict=True)]
        batch = rules.sharding(("batch", "length", None), HIDDEN.shape)

        def placed(*arrays):
            with rules.bound():
                value, (to_hidden, *others) = total(loss)(*arrays)
                return value, (jax.lax.with_sharding_constraint(to_hidden, batch), *others)

        program = jax.jit(placed).lower(*given).compile()
        found, wanted = program(*given), total(TokenLoss(1, ALL.z, ALL.smoothing))(*arrays)
        close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
        jax.tree.map(close, found, wanted)
    tensor, context = mesh.get("tensor", 1), mesh.get("context", 1)
    assert tensor == 1 or [1 for kind, _ in crossing(program.as_text()) if kind == "all-reduce"]
    if context > 1:
        moved = [(kind, sizes) for kind, sizes in crossing(program.as_text()) if kind != "all-reduce"]
        # What a head of several devices puts together: its table's own pieces over fsdp, the length's never.
        assert not moved, moved


BIG, WIDE, LONG = 4096, 32, 64  # a vocabulary that is large against the width
MARKS = (("pad", 0), ("eos", 1), ("mask", 2), ("bos", 3), ("cls", 4), ("sep", 5))
TEXT = Vocabulary(BIG, MARKS, sentinels=tuple(range(BIG - 1, BIG - 9, -1)))
SIZES = {"width": WIDE, "depth": 1, "heads": 4}


def objective(name):
    if name.startswith("coca"):
        model = CocaModelConfig(VitConfig(**SIZES, patch=4), CocaTextConfig(**SIZES), WIDE, queries=4, pooler_heads=4)
        return CocaConfig().build(model, Pairs(Images(8), TEXT), LONG, 1, Precision())
    config, model = {
        "autoregressive": (AutoregressiveConfig(), DecoderConfig(**SIZES)),
        "autoregressive, untied": (AutoregressiveConfig(), DecoderConfig(**SIZES, tied=False)),
        "masked_lm, gathered": (MaskedLmConfig(), EncoderConfig(**SIZES)),
        "span_corruption": (SpanCorruptionConfig(), EncoderDecoderConfig(**SIZES, tied=False)),
    }[name]
    return config.build(model, TEXT, LONG, Precision(), False)


@slow
@pytest.mark.rotated
@pytest.mark.parametrize("mesh", [{"data": 2, "tensor": 4}, {"data": 2, "context": 2, "tensor": 2}], ids=str)
@pytest.mark.parametrize(
    "name", ["autoregressive", "autoregressive, untied", "masked_lm, gathered", "span_corruption", "coca"]
)
def test_no_logits_between_devices(name, mesh):
    """Of a step's collectives the largest is a table's gradient or hidden states; of the tokens there are maximum, sum and the
    target's logit, one number each."""
    rows = 8
    text = compiled(objective(name), rules_of(**mesh), rows).as_text()
    found = [(kind, size) for kind, sizes in crossing(text) for size in sizes]
    largest = max(size for _, size in found)
    table, tokens = BIG * WIDE // mesh["tensor"], rows // mesh["data"] * LONG
    hidden, logits = tokens * WIDE, tokens * BIG // mesh["tensor"] // mesh.get("context", 1)
    print(
        f"\n{name} on {mesh}: largest {largest:,}, a table's part {table:,}, hidden {hidden:,}, logits {logits:,}",
        end="",
    )
    assert largest <= max(table, hidden) < logits // (2 if "context" in mesh else 4)
    assert sum(kind == "all-reduce" and 1 < size <= tokens for kind, size in found) >= 3


@slow
def test_temporaries_fall_with_the_vocabularys_part():
    """Of a head and its loss alone, 32,768 words: what a device keeps beside its arguments and results, nearly linear."""
    vocabulary, width, rows, length = 32768, 64, 4, 512
    found = {}
    for tensor in (1, 2, 4, 8):
        rules = rules_of(tensor=tensor)

        def scored(hidden, table, targets, weights, rules=rules):
            with rules.bound():
                head = lambda x: constrain(x @ table.T, "batch", "length", "act_vocab")
                return cross_entropy.scored(head, hidden, targets, weights, "nll").totals["nll"]

        shapes = (rows, length, width), (vocabulary, width), (rows, length), (rows, length)
        names = ("batch", "length", None), ("vocab", None), ("batch", "length"), ("batch", "length")
        given = [
            jax.ShapeDtypeStruct(shape, dtype, sharding=rules.sharding(name, shape))
            for shape, name, dtype in zip(shapes, names, ("f4", "f4", "i4", "f4"), strict=True)
        ]
        program = jax.jit(jax.value_and_grad(scored, (0, 1))).lower(*given).compile()
        found[tensor] = program.memory_analysis().temp_size_in_bytes / 2**20
    whole = rows * length * vocabulary * 4 / 2**20
    print(f"\nlogits {whole:.0f} MiB; " + ", ".join(f"tensor {ways}: {size:.1f} MiB" for ways, size in found.items()))
    assert found[1] < whole
    assert all(found[1] / found[ways] > 0.8 * ways for ways in (2, 4, 8))
