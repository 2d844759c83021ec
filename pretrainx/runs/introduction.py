"""The block that a run starts with: what it trains, on what, for how long."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import jax

from pretrainx import __version__
from pretrainx.core.readable import quantity
from pretrainx.data.prepared import PreparedText
from pretrainx.data.prepared_images import PreparedImages
from pretrainx.data.prepared_labelled import PreparedLabelled
from pretrainx.data.prepared_pairs import PreparedPairs
from pretrainx.runs.data import Prepared
from pretrainx.runs.parts import Parts
from pretrainx.runs.recipe import Recipe


def introduce(recipe: Recipe, parts: Parts, data: Prepared, workdir: Path, say: Callable[[str], None]) -> None:
    mesh = {axis: size for axis, size in parts.rules.mesh.shape.items() if size > 1} or "one device"
    say(f"pretrainx {__version__} | {jax.device_count()} x {jax.devices()[0].device_kind} | mesh {mesh} | {workdir}")
    kinds = ((PreparedText, _of_text), (PreparedLabelled, _of_labelled))
    lines = next((lines for kind, lines in kinds if isinstance(data, kind)), _of_images)
    tell_all(lines(recipe, parts, data, f"{parts.rows_per_device} per device and microbatch"), say)


def tell_all(lines: Iterable[str], say: Callable[[str], None]) -> None:
    for line in lines:
        say(line)


def _of_text(recipe: Recipe, parts: Parts, text: PreparedText, share: str) -> Iterator[str]:
    tokens = round(recipe.train.batch_size * parts.units_per_row)
    total, stored = tokens * recipe.train.steps, text.meta["splits"]["train"]["tokens"]
    yield (
        f"model {quantity(parts.parameters)} parameters | {quantity(stored)} training tokens, "
        f"vocabulary {text.vocabulary.size} | {tokens} tokens a step ({recipe.train.batch_size} rows, {share})"
    )
    yield (
        f"{recipe.train.steps} steps: {quantity(total)} tokens, {total / max(stored, 1):.2f} epochs, "
        f"{total / parts.parameters:.1f} tokens per parameter"
    )
    if len(text.names) > 1:
        read = text.epochs(recipe.train.batch_size * recipe.train.steps, parts.objective.reads)
        yield "epochs of each part: " + ", ".join(f"{name} {epochs:.2f}" for name, epochs in read.items())


def _of_labelled(recipe: Recipe, parts: Parts, examples: PreparedLabelled, share: str) -> Iterator[str]:
    about, batch = examples.about, recipe.train.batch_size
    rows = examples.rows("train", parts.objective.reads)
    classes = f", {len(about.classes)} classes" if about.classes else ""
    yield (
        f"model {quantity(parts.parameters)} parameters | {len(rows):,} training examples{classes}, vocabulary "
        f"{about.vocabulary.size} | {batch} a step ({share})"
    )
    if rows.cut:
        yield f"{rows.cut:,} of them do not fit into {rows.reads.width} tokens and are cut"
    total = batch * recipe.train.steps
    yield f"{recipe.train.steps} steps: {quantity(total)} examples, {total / len(rows):.2f} epochs"


def _of_images(recipe: Recipe, parts: Parts, pictures: PreparedImages | PreparedPairs, share: str) -> Iterator[str]:
    about, rows = pictures.images, recipe.train.batch_size
    stored = len(pictures.arrays("train")[0])
    classes = f", {len(about.classes)} classes" if about.classes else ""
    yield (
        f"model {quantity(parts.parameters)} parameters | {quantity(stored)} training pictures of "
        f"{about.size} x {about.size} x {about.channels}{classes} | {rows} a step ({share})"
    )
    if isinstance(pictures, PreparedPairs):
        facts = pictures.meta["splits"]["train"]["captions"]
        yield (
            f"{facts['captions']:,} captions of {facts['tokens']:,} tokens, vocabulary {pictures.vocabulary.size} | "
            f"{facts['cut']:,} longer than a row of {facts['cut_at']} with both ends, "
            f"{facts['duplicates']:,} of several pictures, {facts['empty']:,} empty ones dropped"
        )
    if pictures.bad_records:
        each = ", ".join(f"{count:,} of {split}" for split, count in pictures.bad_records.items())
        yield f"pictures that could not be used and were skipped: {each}; data.json names them"
    if pictures.passed_over:
        yield f"files passed over, which are not named as pictures are: {pictures.passed_over:,}"
    total = rows * recipe.train.steps
    yield f"{recipe.train.steps} steps: {quantity(total)} pictures, {total / stored:.2f} epochs"
