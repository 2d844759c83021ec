"""What is evaluated during a run: held-out loss, a trigram model to compare with, samples to read."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pretrainx.data.held_out import HeldOutText
from pretrainx.data.loader import place
from pretrainx.data.prepared import PreparedText
from pretrainx.evals import ngram
from pretrainx.evals.continuation import Continuations
from pretrainx.evals.held_out import HeldOut
from pretrainx.parallel import distributed
from pretrainx.runs.parts import Parts
from pretrainx.runs.recipe import Recipe
from pretrainx.training.state import TrainState


class Evaluation:
    """Called with a state, gives {"held_out/loss": ..., "trigram/loss": ...} and writes DIR/samples/<step>.txt.

    Averaged parameters are evaluated where the run keeps them. The parts of a mixture are evaluated together, and each
    again by itself ("held_out/<part>/loss"): a sum cannot be taken apart by objectives that draw their targets.
    """

    def __init__(self, recipe: Recipe, parts: Parts, text: PreparedText, workdir: Path):
        self.recipe, self.parts, self.text, self.workdir = recipe, parts, text, workdir
        self.latest_samples = ""

    @functools.cached_property
    def held_out_text(self) -> dict[str, HeldOutText]:
        """{part: its held-out text}, of each the beginning as far as config.evals.tokens."""
        length, tokens = self.recipe.data.length, self.recipe.evals.tokens
        return {name: self.text.held_out(name, length, tokens) for name in self.text.names}

    @functools.cached_property
    def held_out(self) -> dict[str, HeldOut]:
        """{"held_out": all parts, "held_out/<part>": one of several}."""
        parts = {name: self.batches(text) for name, text in self.held_out_text.items()}
        together = [batch for batches in parts.values() for batch in batches]
        found = {"held_out": (together, tuple(parts))}
        if len(parts) > 1:
            found |= {f"held_out/{name}": (batches, (name,)) for name, batches in parts.items()}
        make = lambda batches, names: HeldOut(
            self.parts.objective, self.parts.rules, self.recipe.seed, batches, self.bytes_of_text(*names)
        )
        return {name: make(*arguments) for name, arguments in found.items()}

    def batches(self, text: HeldOutText) -> list[dict]:
        """The text's batches on the devices."""
        rows, rules = self.recipe.evals.batch_size or self.recipe.train.batch_size, self.parts.rules
        return [
            place(batch, {name: rules.rows(leaf.shape) for name, leaf in batch.items()}) for batch in text.batches(rows)
        ]

    def bytes_of_text(self, *names: str) -> int:
        """How many bytes the held-out targets of these parts stand for."""
        sizes = self.text.tokenizer.bytes_per_token
        sequences = (tokens for name in names for tokens in self.held_out_text[name].sequences())
        return sum(int(sizes[tokens[1:]].sum()) for tokens in sequences)

    @functools.cached_property
    def trigram(self) -> dict[str, float]:
        """The loss of an interpolated trigram model of the training split on the same held-out targets.

        It is fitted on all of the training text, whatever the weights of a mixture's parts.
        """
        model = ngram.fit(self.text.tokens("train"), self.text.vocabulary.size)
        losses = np.concatenate([model.losses(s) for text in self.held_out_text.values() for s in text.sequences()])
        bits = losses.sum() / np.log(2)
        return {
            "trigram/loss": float(losses.mean()),
            "trigram/bits_per_byte": float(bits / self.bytes_of_text(*self.text.names)),
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
        values = {}
        for split, evaluator in self.held_out.items():
            found = evaluator(params, state.extras, step, stop)
            if not found:
                return {}
            values |= {f"{split}/{name}": value for name, value in found.items()}
        if self.recipe.evals.trigram and distributed.leads():
            values |= self.trigram
        if self.recipe.evals.samples.prompts:
            self.latest_samples = self.continuations(params, state.extras)
            if distributed.leads():
                directory = self.workdir / "samples"
                directory.mkdir(exist_ok=True)
                (directory / f"{step:08d}.txt").write_text(self.latest_samples)
        return values
