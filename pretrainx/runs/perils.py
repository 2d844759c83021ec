"""Evaluations that are made only when they are named: Fisher information, forgetting, pruning, membership."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from pretrainx.adapt.wrapper import innermost
from pretrainx.core import paths
from pretrainx.core.errors import ConfigError
from pretrainx.core.images import Images
from pretrainx.core.records import TextRows
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.data.held_out import SEED
from pretrainx.data.loader import place
from pretrainx.data.rows import batch_of
from pretrainx.evals import membership as scores
from pretrainx.evals.fisher import fisher as estimated
from pretrainx.evals.forgetting import forgetting as measured
from pretrainx.evals.forgetting import overlaid
from pretrainx.evals.pruning import pruning as by_sparsity
from pretrainx.objectives.autoregressive import Autoregressive
from pretrainx.parallel.mesh import MeshConfig
from pretrainx.parallel.rules import Rules
from pretrainx.runs.data import prepare
from pretrainx.runs.evaluations import evaluation_of
from pretrainx.runs.load import Run, load, prepared_directory, rebuild
from pretrainx.runs.parts import lay_out
from pretrainx.runs.preserved import training_batches, write_fisher

if TYPE_CHECKING:
    from pretrainx.runs.evals import Evaluations

FEWEST = 10  # rows of each kind that are compared
SIDE = 8  # of pictures, as what knows no model looks at them


def no_source(found: Evaluations) -> str:
    return (
        ""
        if found.run.config.init_from
        else "the run began from scratch (config.init_from): there is nothing to forget"
    )


def no_rows(found: Evaluations) -> str:
    """Of membership: whether there are rows of one task, of text or pictures."""
    if found.no_text():
        return found.no_text()
    if not isinstance(found.run.about, Vocabulary | Images) or "valid" not in found.run.objective.batch_spec(8):
        return "rows of text or pictures are compared, of one objective, no mixture"
    return ""


def fisher(found: Evaluations) -> dict[str, float]:
    """Writes DIR/fisher/STEP.npz; on one device, where examples are taken one by one."""
    run, config = found.run, found.run.config.evals.fisher
    size = run.config.train.batch_size
    rows = found.data.training_rows(run.objective.reads, size, run.config.seed)
    batches = training_batches(rows, config.examples, size)
    one, _ = lay_out(dataclasses.replace(run.config, mesh=MeshConfig()), jax.devices()[:1])
    params, extras = jax.tree.map(np.asarray, (run.params, run.extras))
    tree, examples = estimated(run.objective, one, config, params, extras, batches, run.config.seed)
    facts = {"examples": examples, "labels": config.labels, "level": config.level}
    path = write_fisher(run.workdir, run.step, tree, facts)
    found.say(f"Fisher information of {examples} examples in {path}")
    values = np.concatenate([leaf.ravel() for _, leaf in paths.leaves(tree)]).astype(np.float64)
    named = f"{config.labels}_{config.level}"
    return {
        f"{named}/examples": float(examples),
        f"{named}/trace": float(values.sum()),
        f"{named}/mean": float(values.mean()),
        f"{named}/largest": float(values.max()),
        f"{named}/zero": float((values == 0).mean()),
    }


def forgetting(found: Evaluations) -> dict[str, float]:
    """On the held-out split of the run that config.init_from names, whose newest step is what is compared with."""
    run = found.run
    source = load(run.config.init_from)
    data = prepare(source.config.data, prepared_directory(source.config, source.workdir), found.say)
    recipe, parts = rebuild(source.config, source.about)
    adapted = run.config.adapt.wrap(source.objective)
    size = recipe.evals.batch_size or recipe.train.batch_size
    after = overlaid(adapted, size, run.objective.heads, run.params, source.params)
    held_out = evaluation_of(recipe, parts, data, source.workdir).held_out
    return measured(held_out, adapted, (source.params, source.step), after, source.extras)


def pruning(found: Evaluations) -> dict[str, float]:
    run, evaluation = found.run, found.evaluation
    held_out, names = evaluation.held_out["held_out"], evaluation.parts.found.params_axes
    return dict(by_sparsity(run.config.evals.pruning, held_out, run.params, names, run.extras, run.step))


class Members:
    """As many rows of the training split as of the held-out one, evenly over each, and what models say of them."""

    def __init__(self, found: Evaluations):
        self.run, data, config = found.run, found.data, found.run.config.evals.membership
        reads = self.run.objective.reads
        # Whole rows only: the padded last one of a held-out text would tell itself.
        of_text = isinstance(reads, TextRows)
        trained = lambda part: data.rows("train", *(part,) * of_text, reads)
        part = max(data.names, key=lambda name: len(trained(name)))  # of a mixture the largest
        members, held_out = trained(part), data.held_out(part, reads).rows
        most, others = len(members), len(held_out) - of_text
        self.count = min(config.rows, most, others)
        if self.count < FEWEST:
            raise ConfigError(
                "there are too few rows to tell members from others",
                where="config.data.held_out",
                why=f"{most} training rows, {others} held-out ones",
                do="raise config.data.held_out, or add data",
            )
        spread = lambda total: (np.arange(self.count) * total // self.count).tolist()
        self.rows = batch_of(members, spread(most), SEED), batch_of(held_out, spread(others), SEED)
        self.size = self.run.config.evals.batch_size or self.run.config.train.batch_size

    def batches(self, rows: dict, rules: Rules) -> Iterator[dict]:
        """The rows on the devices; what fills the last batch is not valid."""
        for first in range(0, self.count, self.size):
            numbers = np.arange(first, first + self.size)
            batch = {name: values[numbers % self.count] for name, values in rows.items()}
            batch["valid"] = numbers < self.count
            yield place(batch, jax.tree.map(lambda leaf: rules.rows(leaf.shape), batch))

    def asked(self, function: Callable, run: Run) -> tuple[Any, Any]:
        """What `function` of a batch gives of (the members, the others) with a run's model."""
        each = (self.batches(rows, run.rules) for rows in self.rows)
        shared = function, run.objective, run.rules, run.params, run.extras
        members, others = (scores.over(*shared, batches, self.run.config.seed) for batches in each)
        return members, others


def membership(found: Evaluations) -> dict[str, float]:
    run, config = found.run, found.run.config.evals.membership
    rows = Members(found)
    losses = rows.asked(scores.row_losses, run)
    told = {"loss": tuple(-each for each in losses)}
    if isinstance(innermost(run.objective), Autoregressive):
        tokens = rows.asked(scores.token_scores, run)
        each = [scores.of_tokens(part, config.lowest) for part in tokens]
        named = {"min_k": f"min_k_{100 * config.lowest:g}", "min_k_plus": f"min_k_plus_{100 * config.lowest:g}"}
        told |= {new: (each[0][old], each[1][old]) for old, new in named.items()}
        told["zlib"] = tuple(scores.compressed(part, run.tokenizer.decode) for part in tokens)
    if config.reference:
        reference = alike(run, config.reference, "reference")
        told["calibrated"] = tuple(
            other - own for own, other in zip(losses, rows.asked(scores.row_losses, reference), strict=True)
        )
    if config.shadows:
        told |= by_shadows(found, rows)
    result = {
        "rows": float(rows.count),
        "loss/members": float(losses[0].mean()),
        "loss/others": float(losses[1].mean()),
    }
    for name, (members, others) in told.items():
        result |= {
            f"{name}/auc": scores.auc(members, others),
            f"{name}/tpr_at_1%_fpr": scores.true_positive_rate(members, others),
        }
    return result | {"blind/auc": scores.blind(*(blind_features(each) for each in rows.rows), seed=run.config.seed)}


def blind_features(rows: dict) -> np.ndarray:
    """float64[B, D]: a bag of words, or a picture at SIDE x SIDE cells."""
    if "tokens" in rows:
        return scores.words(rows["tokens"], np.ones(rows["tokens"].shape))
    image = np.asarray(rows["image"], np.float64)
    cells = [np.array_split(np.arange(size), min(SIDE, size)) for size in image.shape[1:3]]
    down = np.stack([image[:, part].mean(1) for part in cells[0]], 1)
    return np.stack([down[:, :, part].mean(2) for part in cells[1]], 2).reshape(len(image), -1)


def alike(run: Run, workdir: str, key: str) -> Run:
    """Another run that reads the same rows; ConfigError where it is of other words, pictures or widths."""
    other = load(workdir)
    if (other.about, other.objective.reads) != (run.about, run.objective.reads):
        raise ConfigError(
            "the other run reads other rows",
            where=f"config.evals.membership.{key}",
            why=f"{workdir} is of another vocabulary, other pictures or another length",
            do="train it with the tokenizer and the sizes of this one",
        )
    return other


def by_shadows(found: Evaluations, rows: Members) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """{"lira_online" or "lira_offline": scores}: which rows a shadow run was trained on is seen by its own training data."""
    run, shadows, inside = found.run, [], []
    if not isinstance(run.about, Images):
        raise ConfigError(
            "LiRA compares how sure models are of a label",
            where="config.evals.membership.shadows",
            why="the run is of text",
            do="leave it out; config.evals.membership.reference calibrates by one other run",
        )
    digests = lambda images: [hashlib.sha256(np.ascontiguousarray(image)).digest() for image in images]
    wanted = [digest for part in rows.rows for digest in digests(part["image"])]
    for workdir in run.config.evals.membership.shadows:
        other = load(workdir)
        data = prepare(other.config.data, prepared_directory(other.config, other.workdir), found.say)
        trained = data.rows("train", other.objective.reads)
        seen = set(digests(trained.rows(range(len(trained)))["image"]))
        inside.append([digest in seen for digest in wanted])
        shadows.append(np.concatenate(rows.asked(scores.confidences, other)))
    target = np.concatenate(rows.asked(scores.confidences, run))
    ratios, online = scores.lira(target, np.stack(shadows), np.array(inside))
    members, others = (part[~np.isnan(part)] for part in (ratios[: rows.count], ratios[rows.count :]))
    if min(len(members), len(others)) < FEWEST:
        raise ConfigError(
            "rows cannot be told from what shadow runs say of them",
            where="config.evals.membership.shadows",
            why=f"{len(members)} members and {len(others)} others are outside some run's training data",
            do="add shadow runs that were trained on other rows",
        )
    return {f"lira_{'online' if online else 'offline'}_{len(shadows)}": (members, others)}
