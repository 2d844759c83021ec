"""What pretraining is worth on a task: accuracy by number of labels, from a run and from scratch, over several seeds.

Each point is a run of its own in DIR/transfer, trained by the task's configuration; what is done is not done again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pretrainx.core import config as strict
from pretrainx.core.errors import ConfigError
from pretrainx.data.loader import place
from pretrainx.data.prepared_images import PreparedImages
from pretrainx.evals.curve_picture import draw
from pretrainx.evals.held_out import HeldOut
from pretrainx.evals.transfer import Curve, TransferConfig, compared
from pretrainx.runs.data import Prepared, last_split, prepare
from pretrainx.runs.evaluations import evaluation_of
from pretrainx.runs.load import Run, data_directory, load, named_outputs, rebuild
from pretrainx.runs.recipe import Recipe, parse
from pretrainx.training.restore import digest, read_meta, steps_in

if TYPE_CHECKING:
    from pretrainx.runs.evals import Evaluations


def no_task(found: Evaluations) -> str:
    return "" if found.task_values else "no task is given: --task=CONFIG"


def transfer(found: Evaluations) -> dict[str, float]:
    """{metric: value} of training the run by the task's configuration, see `evals.transfer.compared`; the names begin with the
    split that is measured. Runs are in DIR/transfer, in a directory by a digest of task and checkpoint; the picture is
    DIR/samples/<step>-transfer.png.

    Raises ConfigError for a task whose data cannot be cut to few labels.
    """
    run, say = found.run, found.say
    config, directory, recipe = run.config.evals.transfer, run.workdir / "transfer", parse(dict(found.task_values))
    if not hasattr(recipe.data, "labels"):
        raise ConfigError(
            "the task's data cannot be cut to few labels",
            where="--task",
            why=f"its config.data is a {type(recipe.data).__name__}",
            do="name a config with labelled text or pictures (config.data.name 'labelled' or 'images')",
        )
    cached = dataclasses.replace(recipe.data, cache=recipe.data.cache or str(directory / "data"))
    data = prepare(cached, cached.cache, say)
    recipe = dataclasses.replace(recipe, data=cached)
    reads = rebuild(recipe, data.about)[1].objective.reads
    refuse_missing(data, reads, config)
    source = read_meta(run.workdir / "checkpoints", run.step)
    told = json.dumps([strict.as_dict(recipe), digest(source)], sort_keys=True)
    directory = directory / hashlib.sha256(told.encode()).hexdigest()[:8]
    starts = {"pretrained": str(run.workdir)} | ({"scratch": ""} if config.scratch else {})
    curves = {name: Curve(config.labels, np.zeros((len(config.labels), config.seeds))) for name in starts}
    total, done = len(starts) * len(config.labels) * config.seeds, 0
    for index, labels in enumerate(config.labels):
        for seed in range(config.seeds):
            for name, start in starts.items():
                workdir = directory / f"{name}-{labels}-{seed}"
                found = finished(point(recipe, few(data, labels, seed), reads, start, run.step), workdir, config.metric)
                curves[name].values[index, seed] = found
                done += 1
                say(
                    f"transfer {done}/{total}: {name}, {labels} labels per class, seed {seed}: {config.metric} {found:.4f}"
                )
    split = last_split(data)
    draw(curves, f"{config.metric} on {split}", run.workdir / "samples" / f"{run.step:08d}-transfer.png")
    values = compared(curves["pretrained"], curves.get("scratch"), config.metric)
    return {f"{split}/{name}": value for name, value in values.items()}


def few(data: Prepared, labels: int, seed: int) -> Prepared:
    return dataclasses.replace(data, labels=labels, labels_seed=seed)


def refuse_missing(data: Prepared, reads: Any, config: TransferConfig) -> None:
    """ConfigError for more labels than there are, and for a metric that is better when it is smaller."""
    if config.metric == "loss" or config.metric.endswith("error"):
        raise ConfigError(
            "a gain is a metric that grows",
            where="config.evals.transfer.metric",
            why=f"{config.metric!r} is better when it is smaller",
            do="--config.evals.transfer.metric=accuracy, or another one that grows",
        )
    per_class = isinstance(data, PreparedImages) or data.about.target == "class"
    wanted = config.labels[-1] * (len(data.about.classes) if per_class else 1)
    found = len(few(data, config.labels[-1], 0).rows("train", reads))
    if found < wanted:
        raise ConfigError(
            "there are fewer labelled examples than the curve asks for",
            where="config.evals.transfer.labels",
            why=f"{config.labels[-1]}{' of each class' * per_class} are {wanted}, the training split has {found} of them",
            do="ask for fewer, or add examples",
        )


def point(recipe: Recipe, data: Prepared, reads: Any, start: str, step: int) -> Recipe:
    """The recipe of one point of a curve, for data cut to its labels. From scratch every parameter is trained: there is nothing
    to keep.

    A batch is no larger than what there is to read, in whole rows of each microbatch.
    """
    changes: dict[str, Any] = {} if start else {"adapt": {"name": "full"}, "preserve": {"name": "none"}}
    parts, examples = recipe.train.microbatches, len(data.rows("train", reads))
    batch = min(recipe.train.batch_size, max(examples - examples % parts, parts))
    values = strict.as_dict(recipe) | changes
    values |= {"seed": data.labels_seed, "init_from": start, "train": values["train"] | {"batch_size": batch}}
    values["init"] = values["init"] | {"step": step if start else -1}
    values["data"] = values["data"] | {"labels": data.labels, "labels_seed": data.labels_seed}
    return parse(values)


def finished(recipe: Recipe, workdir: Path, metric: str) -> float:
    """The metric of the run of a recipe, trained now where it is not yet."""
    from pretrainx.runs.train import train

    if recipe.train.steps not in steps_in(workdir / "checkpoints"):
        train(strict.as_dict(recipe), workdir, say=lambda line: None)
    return measured(load(workdir), metric)


def measured(run: Run, metric: str) -> float:
    """The metric of a run on its test split, or where it has none on what is held out."""
    recipe, parts = rebuild(run.config, run.about)
    data = prepare(recipe.data, data_directory(recipe, run.workdir), lambda line: None)
    rows = data.held_out("", parts.objective.reads, 0, last_split(data))
    size = recipe.evals.batch_size or 256
    batches = list(rows.batches(size))
    if metric == "accuracy" and "label" in batches[0]:
        return accuracy(run, batches)
    batches = evaluation_of(recipe, parts, data, run.workdir).batches(rows)
    found = HeldOut(parts.objective, parts.rules, recipe.seed, batches)(run.params, run.extras, run.step)
    for name in (f"metric/{metric}", metric):
        if name in found:
            return found[name]
    raise ConfigError(
        f"the task has no metric {metric!r}",
        where="config.evals.transfer.metric",
        why=f"it has {', '.join(name.removeprefix('metric/') for name in found)}",
        do="choose one of these, or accuracy",
    )


def accuracy(run: Run, batches: list[dict]) -> float:
    """The share of valid rows whose class is the likeliest, of what is seen whole: training may see changed pictures."""
    right = total = 0
    for batch in batches:
        inputs = {name: value for name, value in batch.items() if name not in ("label", "valid")}
        placed = place(inputs, {name: run.rules.rows(value.shape) for name, value in inputs.items()})
        logits = named_outputs(run.objective, run.rules, ("logits",), run.params, run.extras, placed, whole=True)[
            "logits"
        ]
        hit = np.asarray(logits).argmax(1) == batch["label"]
        right, total = right + int((hit & batch["valid"]).sum()), total + int(batch["valid"].sum())
    return right / total
