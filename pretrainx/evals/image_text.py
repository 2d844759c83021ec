"""What a model of pictures and captions is worth: retrieval, classification without a single label, captions that it writes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from pretrainx.core.errors import ConfigError
from pretrainx.data.captions import framed_each
from pretrainx.data.loader import place
from pretrainx.data.tokenizer import Tokenizer
from pretrainx.evals import beam, bleu, continuation, retrieval
from pretrainx.objectives.objective import Objective
from pretrainx.parallel import distributed
from pretrainx.parallel.rules import Rules, constrain

ROWS = 256  # pictures or captions at once
DECODINGS = ("greedy", "top_p", "beam")


@dataclass(frozen=True)
class ImageTextConfig:
    """Attributes:
    limit: of the evaluated split, so many pictures; 0: all.
    recall: the numbers k of recall@k; () leaves retrieval out.
    captions_of_each: of each picture so many captions are asked for it, the first ones; 0: all. A first one may be the full one
      and others single words that are true of many pictures.
    templates: of zero-shot classification, texts with {} where the name of a class stands; a class is the mean of them all.
      () leaves it out, and so do data without labels.
    classes: what the classes are called in templates, in the order of the data's; () is the data's own names.
    written: so many captions are written and compared with all of the picture's, where the model writes; 0: none.
    decoding: how they are written: "greedy", "top_p" (drawn from the likeliest tokens that together have `top_p`, at
      `temperature`), or "beam" with `beams`, whose log-probability is divided by the length to the `beam_power`.
    pictures: so many are shown with what was retrieved or written.
    """

    limit: int = field(default=0, metadata={"min": 0})
    recall: tuple[int, ...] = field(default=(1, 5, 10), metadata={"min": 1})
    captions_of_each: int = field(default=0, metadata={"min": 0})
    templates: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    written: int = field(default=256, metadata={"min": 0})
    decoding: str = field(default="greedy", metadata={"choices": DECODINGS})
    top_p: float = field(default=0.9, metadata={"above": 0, "max": 1})
    temperature: float = field(default=1.0, metadata={"above": 0})
    beams: int = field(default=4, metadata={"min": 1})
    beam_power: float = field(default=0.0, metadata={"min": 0})
    pictures: int = field(default=8, metadata={"min": 0})

    def __post_init__(self):
        for template in self.templates:
            if template.count("{}") != 1:
                raise ConfigError(
                    "a template has no place for the class",
                    where="config.evals.image_text.templates",
                    why=repr(template),
                    do="write {} where the name of the class stands, once",
                )

    def described(self, writes: bool) -> list[str]:
        """What is evaluated, in words."""
        found = [f"retrieval at {', '.join(map(str, self.recall))}"] if self.recall else []
        found += [f"zero-shot by {len(self.templates)} templates"] if self.templates else []
        return found + ([f"{self.written} captions, {self.decoding}"] if writes and self.written else [])


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _vectors(objective: Objective, rules: Rules, name: str, params, extras, inputs):
    with rules.bound():
        return constrain(objective.outputs(params, extras, inputs, (name,))[name].astype(np.float32), None, None)


@dataclass
class ImageText:
    """Called with (params, extras), gives {"retrieval/...", "zero_shot/...", "captions/..."} of one split.

    Attributes:
      images: uint8[N, S, S, C] of the split; labels: int32[N] or None; captions: of each picture its texts.
      classes: names of the labels; width: tokens of a caption's row; begin: whether it begins with a token of its own.
    """

    objective: Objective
    rules: Rules
    config: ImageTextConfig
    tokenizer: Tokenizer
    split: str
    images: np.ndarray
    labels: np.ndarray | None
    captions: Sequence[Sequence[str]]
    classes: tuple[str, ...]
    width: int
    begin: bool
    seed: int = 0

    def __post_init__(self):
        count = min(self.config.limit or len(self.images), len(self.images))
        self.images, self.captions = self.images[:count], [self.captions[number] for number in range(count)]
        self.labels = None if self.labels is None else self.labels[:count]
        given = self.config.classes if self.labels is not None else ()
        if given and len(given) != len(self.classes):
            raise ConfigError(
                "the classes are named otherwise than they are",
                where="config.evals.image_text.classes",
                why=f"{len(given)} names, the data have {len(self.classes)} classes: {', '.join(self.classes[:20])}",
                do="give a name for each, in this order, or none",
            )

    def __call__(
        self,
        params: Any,
        extras: Any,
        stop: Callable[[], bool] = lambda: False,
        image: np.ndarray | None = None,
    ) -> dict[str, float]:
        """{} when `stop()` became true on the way. image: float32[N, E], the pictures' vectors where they are known already."""
        image, values = self.of_images(params, extras, self.images, stop) if image is None else image, {}
        if self.config.recall and not stop():
            most = self.config.captions_of_each or None
            asked = [(number, text) for number, texts in enumerate(self.captions) for text in texts[:most]]
            owner, text = np.array([number for number, _ in asked]), [text for _, text in asked]
            vectors = self.of_texts(params, extras, text, stop)
            values |= {} if stop() else retrieval.recall(image, vectors, owner, self.config.recall, self.split)
        if self.config.templates and self.labels is not None and not stop():
            values |= self.zero_shot(params, extras, image)
        if self.objective.decodes and self.config.written and not stop():
            texts = self.written(params, extras, self.config.written, stop)
            values |= {} if stop() else self.quality(texts)
        return {} if stop() else values

    def of_images(self, params, extras, images: np.ndarray, stop: Callable[[], bool] = lambda: False) -> np.ndarray:
        """float32[N, E], of length one; fewer where `stop()` became true on the way."""
        return self._embedded(params, extras, "image", images, stop)

    def of_texts(self, params, extras, texts: Sequence[str], stop: Callable[[], bool] = lambda: False) -> np.ndarray:
        """float32[N, E], of length one; fewer where `stop()` became true on the way."""
        return self._embedded(params, extras, "text", self.rows_of(texts), stop)

    def rows_of(self, texts: Sequence[str]) -> np.ndarray:
        """int32[N, W]: texts as captions are in training."""
        ids, known = self.tokenizer.encode_batch(list(texts)), self.tokenizer.vocabulary
        return framed_each(ids, self.width, known, self.begin)

    def _embedded(self, params, extras, name: str, values: np.ndarray, stop: Callable[[], bool]) -> np.ndarray:
        field, ways = {"image": "image", "text": "tokens"}[name], self.rules.batch_ways()
        size = -(-min(ROWS, len(values)) // ways) * ways
        found = []
        for first in range(0, len(values), size):  # the last batch is filled up with its last row
            batch = np.asarray(values[np.minimum(np.arange(first, first + size), len(values) - 1)])
            placed = {field: place(batch, self.rules.rows(batch.shape))}
            found.append(
                np.asarray(distributed.settled(_vectors(self.objective, self.rules, name, params, extras, placed)))
            )
            if stop():
                break
        return np.concatenate(found)[: len(values)]

    def zero_shot(self, params, extras, image: np.ndarray) -> dict[str, float]:
        """A picture is of the class whose vector is nearest: the mean of its templates' vectors, made of length one again
        (Radford et al. 2021, section 3.1.4). With chance, and the share of the largest class."""
        names = self.config.classes or self.classes
        texts = [template.replace("{}", name) for name in names for template in self.config.templates]
        found = self.of_texts(params, extras, texts).reshape(len(names), len(self.config.templates), -1).mean(1)
        found /= np.linalg.norm(found, axis=1, keepdims=True)
        hits = (image @ found.T).argmax(1) == self.labels
        how = f"{len(names)}-classes_{len(self.config.templates)}-templates_n{len(hits)}/{self.split}"
        largest = np.bincount(self.labels, minlength=len(names)).max() / len(hits)
        return retrieval.share(f"zero_shot/accuracy_{how}", hits) | {
            f"zero_shot/chance_{how}": 1 / len(names),
            f"zero_shot/largest-class_{how}": float(largest),
        }

    def written(self, params, extras, count: int, stop: Callable[[], bool] = lambda: False) -> list[str]:
        """Captions of the first `count` pictures; of fewer where `stop()` became true on the way."""
        known, config, texts = self.tokenizer.vocabulary, self.config, []
        first, end, room = known.special("bos"), known.special("eos"), self.width - 1
        for start in range(0, min(count, len(self.images)), ROWS):
            if stop():
                break
            images = np.asarray(self.images[start : min(start + ROWS, count)])
            shared = self.objective, self.rules, params, extras
            source = {"image": images}
            if config.decoding == "beam":
                ids = beam.search(*shared, first, room, config.beams, end, source, config.beam_power)
            else:
                drawn = config.decoding == "top_p"
                heat = [config.temperature if drawn else 0.0] * len(images)
                prompts, top_p = [np.array([first])] * len(images), config.top_p if drawn else 1.0
                ids = continuation.generate(*shared, prompts, room, heat, end, self.seed, source, top_p)
            texts += [self.tokenizer.decode(each) for each in ids]
        return texts

    def quality(self, written: Sequence[str]) -> dict[str, float]:
        """BLEU against all captions of a picture, in lower case, and the share that is one of them word for word."""
        plain = lambda text: " ".join(text.lower().split())
        texts, known = [plain(text) for text in written], [[plain(text) for text in texts] for texts in self.captions]
        known, how = known[: len(texts)], f"{self.config.decoding}_n{len(texts)}/{self.split}"
        exact = np.array([text in each for text, each in zip(texts, known, strict=True)])
        return {f"captions/bleu_{how}": bleu.bleu(texts, known)} | retrieval.share(f"captions/exact_{how}", exact)
