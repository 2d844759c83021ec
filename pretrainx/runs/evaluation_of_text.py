"""What is evaluated during a run on text: held-out loss, a trigram model to compare with, samples to read."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from pretrainx.adapt.wrapper import innermost
from pretrainx.data.held_out import HeldOutTasks, HeldOutText
from pretrainx.data.prepared import PreparedText
from pretrainx.evals import ngram
from pretrainx.evals.continuation import Continuations
from pretrainx.evals.fill_in import FillIns
from pretrainx.objectives.autoregressive import Autoregressive
from pretrainx.objectives.objective import Objective
from pretrainx.parallel import distributed
from pretrainx.runs.evaluation import Evaluation


class TextEvaluation(Evaluation):
    """Held-out loss in bits of the text, a trigram model's, and samples in DIR/samples/<step>.txt."""

    data: PreparedText

    @functools.cached_property
    def held_out_rows(self) -> dict[str, HeldOutText | HeldOutTasks]:
        """{part: its held-out text}, of each the beginning as far as config.evals.tokens."""
        reads, tokens = self.parts.objective.reads, self.recipe.evals.tokens
        return {name: self.data.held_out(name, reads, tokens) for name in self.data.names}

    def bytes_of_text(self, *names: str) -> int:
        # Only of every token's loss: what is scored elsewhere is a part of the text, or not the text at all. And only where
        # tokens are the text: other tokenizers drop some of it.
        exact = predicts_all(self.parts.objective) and self.data.tokenizer.lossless
        return self.bytes_of_targets(*names) if exact else 0

    def bytes_of_targets(self, *names: str) -> int:
        sizes = self.data.tokenizer.bytes_per_token
        targets = (tokens for name in names for tokens in self.held_out_rows[name].targets())
        return sum(int(sizes[tokens].sum()) for tokens in targets)

    @functools.cached_property
    def trigram_model(self) -> ngram.Trigram:
        """Of all of the training text, whatever the weights of a mixture's parts."""
        return ngram.fit(self.data.tokens("train"), self.data.vocabulary.size)

    @functools.cached_property
    def trigram(self) -> dict[str, float]:
        """The loss of `trigram_model` on all held-out targets, for a prefix LM too, which predicts a part of them."""
        model = self.trigram_model
        losses = np.concatenate([model.losses(s) for text in self.held_out_rows.values() for s in text.sequences()])
        found = {"trigram/loss": float(losses.mean())}
        if self.data.tokenizer.lossless:  # as for held-out loss: other tokens are not the text
            bits = losses.sum() / np.log(2)
            found["trigram/bits_per_byte"] = float(bits / self.bytes_of_targets(*self.data.names))
        return found

    @property
    def length(self) -> int:
        """Tokens of a text that a decoder goes on with; the mode token of a prefix LM has a position before them."""
        return self.recipe.data.length - bool(getattr(innermost(self.parts.objective), "mode", ""))

    @functools.cached_property
    def continuations(self) -> Continuations:
        text, samples = self.data, self.recipe.evals.samples
        return Continuations(
            self.parts.objective,
            self.parts.rules,
            self.recipe.seed,
            lambda prompt: text.tokenizer.encode_batch([prompt])[0],
            text.tokenizer.decode,
            text.vocabulary.special("eos"),
            samples.prompts,
            self.length,
            samples.temperature,
        )

    @functools.cached_property
    def fill_ins(self) -> FillIns:
        text, samples = self.data, self.recipe.evals.samples
        batch = self.held_out["held_out"].batches[0]
        return FillIns(
            self.parts.objective,
            self.parts.rules,
            self.recipe.seed,
            batch,
            text.tokenizer.decode,
            text.vocabulary,
            samples.rows,
            samples.temperature,
        )

    @property
    def samples(self) -> Continuations | FillIns | None:
        """What writes the text to look at, if any."""
        wanted = self.recipe.evals.samples
        if is_causal(self.parts.objective):
            return self.continuations if wanted.prompts else None
        return self.fill_ins if wanted.rows else None

    def beyond(self, params, extras, step: int, stop: Callable[[], bool]) -> dict[str, float]:
        values = (
            self.trigram
            if self.recipe.evals.trigram and is_causal(self.parts.objective) and distributed.leads()
            else {}
        )
        if self.samples:
            self.latest_samples = self.samples(params, extras)
            if distributed.leads() and self.latest_samples:
                directory = self.workdir / "samples"
                directory.mkdir(exist_ok=True)
                (directory / f"{step:08d}.txt").write_text(self.latest_samples)
        return values


def predicts_all(objective: Objective) -> bool:
    """Whether every token of a text is scored, given those before it: then losses are bits of the text."""
    return type(innermost(objective)) is Autoregressive


def is_causal(objective: Objective) -> bool:
    """Whether it goes on with a text: whether a trigram model and continuations of prompts can be compared with it."""
    return isinstance(innermost(objective), Autoregressive)
