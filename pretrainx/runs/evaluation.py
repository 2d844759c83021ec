"""What is evaluated during a run: held-out loss, a trigram model to compare with, samples to read."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pretrainx.data.loader import place
from pretrainx.data.prepared import PreparedText
from pretrainx.data.rows import held_out_batches
from pretrainx.evals import ngram
from pretrainx.evals.continuation import Continuations
from pretrainx.evals.held_out import HeldOut
from pretrainx.runs.parts import Parts
from pretrainx.runs.recipe import Recipe
from pretrainx.training.state import TrainState


class Evaluation:
    """Called with a state, gives {"held_out/loss": ..., "trigram/loss": ...} and writes DIR/samples/<step>.txt.

    Averaged parameters are evaluated where the run keeps them.
    """

    def __init__(self, recipe: Recipe, parts: Parts, text: PreparedText, workdir: Path):
        self.recipe, self.parts, self.text, self.workdir = recipe, parts, text, workdir
        self.latest_samples = ""

    @functools.cached_property
    def tokens(self) -> np.ndarray:
        """The held-out stream, or its beginning as far as config.evals.tokens."""
        tokens = np.asarray(self.text.tokens("held_out"))
        return tokens[: self.recipe.evals.tokens + 1] if self.recipe.evals.tokens else tokens

    @functools.cached_property
    def bytes_of_text(self) -> int:
        return int(self.text.tokenizer.bytes_per_token[self.tokens[1:]].sum())

    @functools.cached_property
    def held_out(self) -> HeldOut:
        rows = self.recipe.evals.batch_size or self.recipe.train.batch_size
        pad = self.text.vocabulary.special("pad")
        rules = self.parts.rules
        batches = [
            place(batch, {name: rules.rows(leaf.shape) for name, leaf in batch.items()})
            for batch in held_out_batches(self.tokens, self.recipe.data.length, rows, pad)
        ]
        return HeldOut(self.parts.objective, rules, self.recipe.seed, batches, self.bytes_of_text)

    @functools.cached_property
    def trigram(self) -> dict[str, float]:
        """The loss of an interpolated trigram model of the training split on the same held-out tokens."""
        model = ngram.fit(self.text.tokens("train"), self.text.vocabulary.size)
        loss = model.loss(self.tokens)
        return {
            "trigram/loss": loss,
            "trigram/bits_per_byte": loss * (len(self.tokens) - 1) / np.log(2) / self.bytes_of_text,
        }

    @functools.cached_property
    def continuations(self) -> Continuations:
        text, samples = self.text, self.recipe.evals.samples
        return Continuations(
            self.parts.objective,
            self.parts.rules,
            self.recipe.seed,
            lambda prompt: text.tokenizer.encode_batch([prompt])[0],
            text.tokenizer.decode,
            text.vocabulary.special("eos"),
            samples.prompts,
            self.recipe.data.length,
            samples.temperature,
        )

    def __call__(self, state: TrainState, stop: Callable[[], bool]) -> dict[str, float]:
        params, step = state.full_params(averaged=True), int(state.step)
        values = {f"held_out/{name}": value for name, value in self.held_out(params, state.extras, step, stop).items()}
        if not values:
            return {}
        if self.recipe.evals.trigram:
            values |= self.trigram
        if self.recipe.evals.samples.prompts:
            directory = self.workdir / "samples"
            directory.mkdir(exist_ok=True)
            self.latest_samples = self.continuations(params, state.extras)
            (directory / f"{step:08d}.txt").write_text(self.latest_samples)
        return values
