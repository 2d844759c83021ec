"""The objectives under contract: every registered one and the toys, all on the shipped scanned, rematerialised models."""

import functools
from dataclasses import dataclass, replace

import jax
import numpy as np

from contract import adapted, pairs, pictures, preserved, tasks
from pretrainx.adapt.mixture import Mixture
from pretrainx.adapt.mixture_of_denoisers import Denoiser, MixtureOfDenoisersConfig
from pretrainx.core import paths
from pretrainx.core.schedule import WarmupCosine
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.models.decoder import Decoder, DecoderConfig
from pretrainx.models.encoder import EncoderConfig
from pretrainx.models.encoder_decoder import EncoderDecoderConfig
from pretrainx.models.experts import ExpertsConfig
from pretrainx.models.layers import Precision
from pretrainx.objectives.autoregressive import Autoregressive
from pretrainx.objectives.classification import ClassificationConfig
from pretrainx.objectives.denoising import DenoisingConfig
from pretrainx.objectives.masked_lm import MaskedLmConfig
from pretrainx.objectives.prefix_lm import PrefixLmConfig
from pretrainx.objectives.span_corruption import SpanCorruptionConfig
from pretrainx.optim.optimizer import AdamWConfig, Optimizer
from pretrainx.parallel.mesh import AXES, MeshConfig, make_mesh
from pretrainx.parallel.rules import Rules
from pretrainx.parallel.sharding import ShardingConfig
from pretrainx.training import state as states
from pretrainx.training.step import Options, make_train_step
from toys.clip import Clip
from toys.coca import Coca
from toys.codebook import Codebook
from toys.guest import Guest, bigram
from toys.moco import Moco

ROWS, LENGTH, STEPS = 16, 12, 6
VOCABULARY = Vocabulary(50, (("pad", 0), ("eos", 1)))
CONFIG = DecoderConfig(width=32, depth=2, heads=4, dropout=0.1, remat="full", vocab_multiple=16)
# Everything that LLaMA and its successors do otherwise, in rows that hold several documents.
LLAMA = replace(
    CONFIG,
    positions="rotary",
    norm="rms",
    activation="silu",
    gated=True,
    bias=False,
    kv_heads=2,
    qk_norm=True,
    tied=False,
    logit_cap=5.0,
    window=7,
    remat="weight_dots",
)


LLAMA_WHOLE = replace(LLAMA, window=0)
# Tight: tokens are dropped, in every form that is compared.
EXPERTS = ExpertsConfig(4, 2, capacity=0.75, balance=0.1, z=0.1)
# Marks before the ids of text, sentinels behind them.
MARKED = Vocabulary(
    50,
    (("pad", 0), ("eos", 1), ("mask", 2), ("bos", 3), ("cls", 4), ("sep", 5), ("regular", 6), ("sequential", 7)),
    sentinels=(49, 48, 47, 46),
)
FIRST, LAST = 8, 46  # ids of text
SHARED = {"width": 32, "depth": 2, "heads": 4, "dropout": 0.1, "vocab_multiple": 16}
BERT = EncoderConfig(**SHARED, types=2, pooler=True)
# A modern encoder: norms first, rotary, gated, no tables but the tokens'.
MODERN = EncoderConfig(
    **SHARED,
    remat="weight_dots",
    positions="rotary",
    norm_first=True,
    norm="rms",
    activation="silu",
    gated=True,
    bias=False,
    kv_heads=2,
    embedding_norm=False,
    head="linear",
    tied=False,
)
T5 = EncoderDecoderConfig(
    **{**SHARED, "depth": 1},
    positions="relative",
    buckets=8,
    bucket_distance=16,
    norm_first=True,
    norm="rms",
    activation="gelu_tanh",
    gated=True,
    bias=False,
    tied=False,
    scaled_attention=False,
    initial="fan_in",
    embedding_norm=False,
)
BART = EncoderDecoderConfig(**{**SHARED, "depth": 1}, remat="full", position_offset=2)
TWO_DENOISERS = (
    Denoiser("regular", 0.5, mode="regular"),
    Denoiser("sequential", 0.5, "prefix", mode="sequential"),
)


def built(config, model, segmented=False, length=LENGTH):
    """The objective as a run makes it from the two sections of a config."""
    return config.build(model, MARKED, length, Precision("float64", "float64"), segmented)


def text(kind, config=CONFIG, **extra):
    model = Decoder(config, VOCABULARY.size, 2 * LENGTH, Precision("float64", "float64"))
    return kind(model, VOCABULARY, LENGTH, **extra)


CASES = (
    pictures.CASES
    | pairs.CASES
    | tasks.CASES
    | {
        "autoregressive": lambda: text(Autoregressive),
        "autoregressive, llama packed": lambda: text(Autoregressive, LLAMA, segmented=True),
        "autoregressive, experts": lambda: text(Autoregressive, replace(CONFIG, experts=EXPERTS)),
        "masked_lm": lambda: built(
            MaskedLmConfig(selection="exact", next_sentence=True, gather=False, short_fraction=0.3), BERT, length=16
        ),
        "masked_lm, modern gathered": lambda: built(
            MaskedLmConfig(mask_fraction=0.3, whole_word=True, special_tokens=False), MODERN, segmented=True
        ),
        "span_corruption": lambda: built(SpanCorruptionConfig(), T5),
        "span_corruption, decoder": lambda: built(SpanCorruptionConfig(), CONFIG),
        "denoising": lambda: built(DenoisingConfig(), BART),
        "prefix_lm": lambda: built(PrefixLmConfig(), CONFIG),
        "prefix_lm, experts": lambda: built(PrefixLmConfig(), replace(LLAMA_WHOLE, experts=EXPERTS)),
        "mixture_of_denoisers": lambda: built(MixtureOfDenoisersConfig(TWO_DENOISERS), T5),
        "mixture_of_denoisers, decoder": lambda: built(MixtureOfDenoisersConfig(TWO_DENOISERS), LLAMA_WHOLE),
        "queue": lambda: text(Moco),
        "toy clip": lambda: text(Clip),
        "toy coca": lambda: text(Coca),
        "codebook": lambda: text(Codebook),
        "mixture(autoregressive, queue)": lambda: Mixture(
            (("lm", text(Autoregressive), 0.5), ("queue", text(Moco), 0.5)),
        ),
        "nnx guest": lambda: Guest(bigram(56, 16, "float64"), VOCABULARY, LENGTH),
    }
)
# What only wrappers are put around: tables of positions with room for a prompt, a mixture of which one task is coupled.
BASES = {
    "prompted decoder": lambda: text(Autoregressive),
    "prompted prefix": lambda: built(PrefixLmConfig(), replace(CONFIG, max_length=2 * LENGTH)),
    "prompted experts": lambda: text(Autoregressive, replace(CONFIG, experts=EXPERTS)),
    "prompted encoder": lambda: built(MaskedLmConfig(next_sentence=True), replace(BERT, max_length=20), length=16),
    "classification of patches": lambda: pictures.built(ClassificationConfig(), pictures.VIT),
    "mixture(clip, codebook)": lambda: Mixture((("clip", text(Clip), 0.5), ("vq", text(Codebook), 0.5))),
}
CASES |= adapted.around(CASES | BASES)
CASES |= preserved.around(CASES)


def make_batch(objective, rows=ROWS, seed=0):
    """A batch by the objective's own spec: random tokens, uneven padding, or random pictures; the third row invalid."""
    rng = np.random.default_rng(seed)

    def fill(spec):
        if "valid" not in spec:
            return {name: fill(part) for name, part in spec.items()}
        if "captions" in spec:
            return pairs.fields(spec, rng) | {"valid": np.arange(rows) != 2}
        if "image" in spec:
            return pictures.fields(spec, rng) | {"valid": np.arange(rows) != 2}
        if tasks.LABELS & spec.keys():
            return tasks.fields(spec, rng) | {"valid": np.arange(rows) != 2}
        count, width = spec["tokens"].shape
        lengths = rng.integers(width // 2, width + 1, count)
        real = np.arange(width) < lengths[:, None]
        tokens = np.where(real, rng.integers(FIRST, LAST, (count, width)), 0)
        fields = {"tokens": np.asarray(tokens, np.int32), "valid": np.arange(count) != 2}
        if "segments" in spec:  # two documents a row, then padding
            segments = 1 + (np.arange(width) >= rng.integers(2, width // 2, (count, 1)))
            fields["segments"] = np.where(real, segments, 0).astype(np.int32)
        if "length" in spec:
            fields["length"] = lengths.astype(np.int32)
        if "task" in spec:
            fields["task"] = np.arange(count, dtype=np.int32) % 3
        for name, often in (("words", 0.6), ("sentences", 0.2)):
            if name in spec:
                fields[name] = real & (rng.random((count, width)) < often)
        if "other" in spec:
            fields["other"] = np.roll(fields["tokens"], 1, 0)
        return {name: fields[name] for name in spec}

    return fill(objective.batch_spec(rows))


@dataclass
class Run:
    """One prepared run: call `step` as often as wanted."""

    objective: object
    optimizer: Optimizer
    options: Options
    found: states.Layout
    state: states.TrainState
    step: object

    def place(self, batch):
        return jax.tree.map(lambda x: jax.device_put(x, self.options.rules.rows(x.shape)), batch)


def noisy(state, scale=0.1):
    """Parameters + N(0, scale): at initialisation some gradients are zero by construction."""
    rng = np.random.default_rng(1)
    move = lambda x: jax.device_put(np.asarray(x) + scale * rng.standard_normal(x.shape), x.sharding)
    full = paths.map_leaves(lambda _, leaf: move(leaf), state.full_params())
    return state.replace(params=paths.restrict(full, like=state.params), frozen=paths.restrict(full, like=state.frozen))


def prepare(
    case,
    mesh=MeshConfig(1),
    microbatches=1,
    noise=True,
    objective=None,
    clip=1.0,
    optimizer=AdamWConfig(),
    sharding=ShardingConfig(),
    **options,
):
    objective = objective or CASES[case]()
    ways = np.prod([getattr(mesh, axis) for axis in AXES])
    rules = Rules(make_mesh(mesh, jax.devices()[:ways]), config=sharding)
    options = Options(rules, seed=3, microbatches=microbatches, ema=0.9, **options)
    found = states.layout(objective, ROWS)
    chain = Optimizer(optimizer, WarmupCosine(1e-2, 2, 10), clip, found.params_axes)
    state = states.create(objective, chain, options, found, ROWS)
    state = noisy(state) if noise else state
    return Run(objective, chain, options, found, state, make_train_step(objective, chain, options, state))


@dataclass
class Trace:
    """What a run left on the host: the state before, after each step, and the metrics of each step."""

    run: Run
    states: list
    metrics: list
    compiled: int


@functools.lru_cache(maxsize=4)
def trace(case, mesh=MeshConfig(1), microbatches=1):
    """STEPS steps of a case. Cached: the checks of one case share one compiled program."""
    run = prepare(case, mesh, microbatches)
    state, seen, metrics = run.state, [host(run.state)], []
    for i in range(STEPS):
        state, measured = run.step(state, run.place(make_batch(run.objective, seed=i)))
        seen.append(host(state))
        metrics.append(host(measured))
    run.state = state
    return Trace(run, seen, metrics, run.step.traces)


def host(tree):
    return jax.tree.map(np.asarray, tree)


def difference(a, b):
    """(largest absolute difference, the leaf where it is) of two trees of equal form."""
    worst, where = 0.0, ""
    left, right = jax.tree_util.tree_leaves_with_path(a), jax.tree_util.tree_leaves_with_path(b)
    assert [p for p, _ in left] == [p for p, _ in right]
    for (path, x), (_, y) in zip(left, right, strict=True):
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        gap = np.abs(x - y).max() if x.size else 0.0
        if not gap <= worst:
            worst, where = float(gap), jax.tree_util.keystr(path)
    return worst, where


def gradients(trace_):
    """The gradient of the first step, from Adam's first moment (zero before it)."""
    b1 = trace_.run.optimizer.config.b1
    return jax.tree.map(lambda m: m / (1 - b1), trace_.states[1].opt_state["adam"].mu)


def bits(tree):
    return [np.asarray(x).tobytes() for x in jax.tree.leaves(tree)]
