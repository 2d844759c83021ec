"""Evaluations that are made only when they are named: Fisher information, forgetting, pruning, membership."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from pretrainx.adapt.linear_probe import LinearProbe
from pretrainx.adapt.lora import Lora
from pretrainx.adapt.preserving import Preserving
from pretrainx.adapt.wrapper import Frozen, innermost
from pretrainx.core import paths
from pretrainx.core.errors import ConfigError
from pretrainx.core.images import Images
from pretrainx.core.records import TextRows
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.data.held_out import SEED
from pretrainx.data.loader import place
from pretrainx.data.rows import TrainingRows, batch_of
from pretrainx.evals import membership as scores
from pretrainx.evals.fisher import fisher as estimated
from pretrainx.evals.forgetting import forgetting as measured
from pretrainx.evals.forgetting import overlaid, with_statistics
from pretrainx.evals.pruning import pruning as by_sparsity
from pretrainx.objectives.autoregressive import Autoregressive
from pretrainx.objectives.objective import Objective
from pretrainx.parallel.mesh import MeshConfig
from pretrainx.parallel.rules import Rules
from pretrainx.runs.data import prepare
from pretrainx.runs.evaluations import evaluation_of
from pretrainx.runs.load import Run, load, prepared_directory, rebuild
from pretrainx.runs.parts import lay_out
from pretrainx.runs.preserved import training_batches, write_fisher
from pretrainx.runs.starting_point import same_task
from pretrainx.runs.unwrapped import unwrapped
from pretrainx.training import state as states
from pretrainx.training.restore import read_meta

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


def adapted(run: Run) -> tuple[Objective, Any]:
    """(the objective without what preserves, its extras)."""
    objective, extras = run.objective, run.extras
    while isinstance(objective, Preserving):
        objective, extras = objective.inner, extras["inner"]
    return objective, extras


def measured_whole(run: Run) -> Run:
    """The run as Fisher information is taken of it: of all weights, updates merged into them, without what preserves.

    What was inserted beside the weights is no weight: there the importance is of itself.
    """
    objective, extras = adapted(run)
    if isinstance(objective, Frozen) and not isinstance(objective, (Lora, LinearProbe)):
        return dataclasses.replace(run, objective=objective, extras=extras)
    return unwrapped(run)


def fisher(found: Evaluations) -> dict[str, float]:
    """Writes DIR/fisher/STEP.npz; on one device, where examples are taken one by one."""
    run, config = measured_whole(found.run), found.run.config.evals.fisher
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
    """On the held-out split of the run that config.init_from names, by the loss that its own wrappers are around."""
    run, step = found.run, found.run.config.init.step
    source = load(run.config.init_from, None if step < 0 else step)
    if run.tokenizer and source.tokenizer and run.tokenizer.digest != source.tokenizer.digest:
        raise ConfigError(
            "the adapted model reads other tokens than the task that it was pretrained on",
            where="config.data.tokenizer",
            why=f"the tokenizer is {run.tokenizer.digest[:12]}..., that of {source.workdir} {source.tokenizer.digest[:12]}...",
            do="leave 'forgetting' out, or adapt with the tokenizer.json of that run",
        )
    plain = unwrapped(source)
    data = prepare(source.config.data, prepared_directory(source.config, source.workdir), found.say)
    recipe, parts = rebuild(source.config, source.about)
    wrapped = run.config.adapt.wrap(plain.objective)
    size = recipe.evals.batch_size or recipe.train.batch_size
    # A head that the new run went on with is a part of what it became; one of another task has nothing to say here.
    kept = same_task(read_meta(source.workdir / "checkpoints", source.step), run.config, run.about)
    after = overlaid(wrapped, size, () if kept else run.objective.heads, run.params, plain.params)
    held_out = {
        name: dataclasses.replace(each, objective=plain.objective)
        for name, each in evaluation_of(recipe, parts, data, source.workdir).held_out.items()
    }
    extras = with_statistics(adapted(run)[1], plain.extras)
    return measured(held_out, wrapped, (plain.params, plain.extras), (after, extras), source.step)


def pruning(found: Evaluations) -> dict[str, float]:
    """Of the model's own weights, updates merged into them, and by its own loss, without what preserves."""
    run = unwrapped(found.run)
    held_out = dataclasses.replace(found.evaluation.held_out["held_out"], objective=run.objective)
    names = states.layout(run.objective, run.config.train.batch_size).params_axes
    return dict(by_sparsity(run.config.evals.pruning, held_out, run.params, names, run.extras, run.step))


def rows_read(training: TrainingRows, steps: int, most: int) -> np.ndarray:
    """int64[n], rising: rows of the corpus that the first `steps` steps have read, each once; of at most `most` of these steps,
    evenly over the run."""
    chosen = np.unique(np.linspace(0, steps - 1, min(steps, most)).astype(int))
    return np.unique(np.concatenate([training.numbers(step) for step in chosen.tolist()] or [chosen]))


class Members:
    """As many rows that the run was trained on as held-out ones, evenly over both, and what models say of them.

    Attributes:
      epochs: how often the run has read the part of the training split that its members are of.
    """

    def __init__(self, found: Evaluations):
        self.run, data, config = found.run, found.data, found.run.config.evals.membership
        reads = self.run.objective.reads
        # Whole rows only: the padded last one of a held-out text would tell itself.
        of_text = isinstance(reads, TextRows)
        size, steps = self.run.config.train.batch_size, self.run.step
        training = data.training_rows(reads, size, self.run.config.seed)
        read = rows_read(training, steps, config.rows)
        parts = training.source.part_of(read) if len(data.names) > 1 else np.zeros(len(read), np.int64)
        part = np.bincount(parts, minlength=1).argmax()  # of a mixture the one that most rows are of
        members, held_out = read[parts == part], data.held_out(data.names[part], reads).rows
        others = len(held_out) - of_text
        self.count = min(config.rows, len(members), others)
        if self.count < FEWEST:
            raise ConfigError(
                "there are too few rows to tell members from others",
                where=str(self.run.workdir),
                why=f"{steps} steps have read {len(members)} training rows, {others} are held out",
                do="train longer, raise config.data.held_out, or add data",
            )
        spread = lambda total: np.arange(self.count) * total // self.count
        self.rows = (
            batch_of(training.source, members[spread(len(members))].tolist(), SEED),
            batch_of(held_out, spread(others).tolist(), SEED),
        )
        self.epochs = data.epochs(steps * size, reads)[data.names[part]]
        self.size = self.run.config.evals.batch_size or size

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
    found.say(f"{rows.count} rows that were read in {run.step} steps ({rows.epochs:.3g} epochs), as many held-out ones")
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
        "epochs": float(rows.epochs),
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
    """Another run that reads the same rows; ConfigError where it is of other words, classes, pictures or widths."""
    other = load(workdir)
    here, there = (read_by(each) for each in (run, other))
    if differing := [what for what in here if here[what] != there[what]]:
        raise ConfigError(
            "the other run reads other rows",
            where=f"config.evals.membership.{key}",
            why=f"{workdir} has " + " and ".join(f"another {what}" for what in differing),
            do="train it with the tokenizer, the classes and the sizes of this one",
        )
    return other


def read_by(run: Run) -> dict[str, Any]:
    """{what: value} that two runs must share for a row to mean the same to both. Statistics of pixels are each's own."""
    of_pictures = isinstance(run.about, Images)
    return {
        "length or size of rows": run.objective.reads,
        "vocabulary": None if of_pictures else run.about,
        "tokenizer": run.tokenizer and run.tokenizer.digest,
        "list of classes": run.about.classes if of_pictures and "label" in run.objective.reads.fields else None,
    }


def by_shadows(found: Evaluations, rows: Members) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """{"lira_online" or "lira_offline": scores}: a shadow run was trained on the pictures that its steps have read."""
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
        other = alike(run, workdir, "shadows")
        data = prepare(other.config.data, prepared_directory(other.config, other.workdir), found.say)
        size = other.config.train.batch_size
        trained = data.training_rows(other.objective.reads, size, other.config.seed)
        epoch = -(-len(trained.source) // size)  # in as many steps each is read
        read = rows_read(trained, min(other.step, epoch), epoch)
        seen = set(digests(trained.source.rows(read.tolist())["image"]))
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
