"""What is evaluated during a run on pictures with captions: what is of pictures, and retrieval, zero-shot, captions."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from pretrainx.data.prepared_pairs import PreparedPairs
from pretrainx.evals.contact_sheet import answers, contact_sheet
from pretrainx.evals.image_text import ImageText
from pretrainx.parallel import distributed
from pretrainx.runs.evaluation_of_images import FINISHED, TRAINING, ImageEvaluation
from pretrainx.runs.parts import Parts
from pretrainx.runs.recipe import Recipe

SHOWN = 5  # pictures that are retrieved for a caption


class PairEvaluation(ImageEvaluation):
    """Beside what ImageEvaluation gives, {"retrieval/...", "zero_shot/...", "captions/..."}, and in DIR/samples what captions
    retrieve and what is written of pictures."""

    data: PreparedPairs

    def __init__(self, recipe: Recipe, parts: Parts, data: PreparedPairs, workdir: Path):
        super().__init__(recipe, parts, data, workdir)
        # What cannot be compared is refused before anything is trained.
        self._vectors, _ = None, self.image_text_on_the_way

    @functools.cached_property
    def image_text(self) -> ImageText:
        """Of a finished run, as `representations` are."""
        return self.compared_on(self.first_of(FINISHED))

    @functools.cached_property
    def image_text_on_the_way(self) -> ImageText:
        """The same while it trains."""
        return self.compared_on(self.first_of(TRAINING))

    def compared_on(self, split: str) -> ImageText:
        objective, (images, labels) = self.parts.objective, self.data.arrays(split)
        return ImageText(
            objective,
            self.parts.rules,
            self.recipe.evals.image_text,
            self.data.tokenizer,
            split,
            images,
            labels,
            self.data.captions(split),
            self.data.images.classes,
            objective.reads.width,
            objective.reads.begin,
            self.recipe.seed,
        )

    def beyond(self, params, extras, step: int, stop: Callable[[], bool]) -> dict[str, float] | None:
        compared = self.image_text_on_the_way
        self._vectors = compared.of_images(params, extras, compared.images, stop)
        values = None if stop() else super().beyond(params, extras, step, stop)
        if values is None:
            return None
        if self.latest_samples and distributed.leads():
            (self.workdir / "samples" / f"{step:08d}.txt").write_text(self.latest_samples, encoding="utf-8")
        found = compared(params, extras, stop, self._vectors)
        return None if stop() else values | found

    def samples(self, params, extras, stop: Callable[[], bool]) -> Iterator[tuple[str, str, Image.Image | None]]:
        yield from super().samples(params, extras, stop)
        compared, wanted = self.image_text_on_the_way, self.recipe.evals.image_text.pictures
        wanted = min(wanted, len(compared.images))
        if not wanted:
            return
        texts = [texts[0] for texts in compared.captions[:wanted]]
        image, text = self._vectors, compared.of_texts(params, extras, texts)
        best = (-(text @ image.T)).argsort(1, kind="stable")[:, : min(SHOWN, len(compared.images))]
        sheet = answers(texts, compared.images[best], best == np.arange(wanted)[:, None])
        yield "retrieval", "held-out captions, and the pictures that they retrieve", None if stop() else sheet
        if compared.objective.decodes and not stop():
            written = compared.written(params, extras, wanted)
            lines = [f"{known[0]}\n    {text}" for known, text in zip(compared.captions[:wanted], written, strict=True)]
            self.latest_samples = "captions of held-out pictures, and what is written of them:\n" + "\n".join(lines)
            sheet = contact_sheet([compared.images[:wanted]], written)
            yield "captions", "held-out pictures, and what is written of them", None if stop() else sheet
