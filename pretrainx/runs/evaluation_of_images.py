"""What is evaluated during a run on pictures: held-out loss, what the features are worth, pictures to look at."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from PIL import Image

from pretrainx.adapt.wrapper import innermost
from pretrainx.data.loader import place
from pretrainx.data.prepared_images import PreparedImages
from pretrainx.evals import pictures
from pretrainx.evals.representations import Representations
from pretrainx.objectives import pixels
from pretrainx.objectives.objective import Objective
from pretrainx.parallel import distributed
from pretrainx.parallel.rules import Rules
from pretrainx.runs import examples
from pretrainx.runs.evaluation import Evaluation
from pretrainx.runs.load import named_outputs

# Which split is measured, the first that there is. While a run trains, never the test split where others are held out: what
# is looked at on the way is what a person chooses by.
TRAINING, FINISHED = ("held_out", "test"), ("test", "held_out")


class ImageEvaluation(Evaluation):
    """Held-out loss, {"knn/...", "probe/...", "collapse/..."} of config.evals.representations, and DIR/samples/<step>-*.png."""

    data: PreparedImages

    @functools.cached_property
    def held_out_rows(self) -> dict[str, Any]:
        return {"": self.data.held_out("", self.parts.objective.reads, self.recipe.evals.limit)}

    @functools.cached_property
    def representations(self) -> Representations:
        """Of a finished run: on the ready-made test split where there is one, or else on what was held out."""
        return self.measured_on(self.first_of(FINISHED))

    @functools.cached_property
    def on_the_way(self) -> Representations:
        """The same while it trains."""
        return self.measured_on(self.first_of(TRAINING))

    def first_of(self, splits: tuple[str, ...]) -> str:
        return next(name for name in splits if name in self.data.splits)

    def measured_on(self, split: str) -> Representations:
        parts = self.parts
        return Representations(
            parts.objective,
            parts.rules,
            self.recipe.evals.representations,
            self.data.images,
            self.data.arrays("train"),
            {split: self.data.arrays(split)},
            self.recipe.seed,
        )

    def beyond(self, params, extras, step: int, stop: Callable[[], bool]) -> dict[str, float] | None:
        values = self.on_the_way(params, extras, stop) if gives_features(self.parts.objective) else {}
        if stop():
            return None
        for name, caption, picture in self.samples(params, extras, stop):
            if picture is None:
                return None
            if distributed.leads():
                pictures.save(picture, self.workdir / "samples" / f"{step:08d}-{name}.png", f"{caption}, step {step}")
        return values

    def samples(self, params, extras, stop: Callable[[], bool]) -> Iterator[tuple[str, str, Image.Image | None]]:
        """(name, caption, picture) of each kind that the objective has something to show of; no picture where `stop()` became
        true on the way."""
        objective, rules = self.parts.objective, self.parts.rules
        wanted = self.recipe.evals.representations.pictures
        if not wanted:
            return
        images = np.asarray(self.data.arrays("held_out")[0][: max(wanted, rules.batch_ways())])
        # A mesh needs a picture for each of its ways; a page has room for those that were asked for.
        given = {name: array[:wanted] for name, array in shown(objective, rules, params, extras, images).items()}
        images = images[:wanted]
        yield from seen(objective, self.recipe.seed, images)
        restored, hidden = given.get("reconstruction"), given.get("hidden_patches")
        if restored is not None and hidden is not None:
            caption = "pictures, what is seen of them, what is made of that"
            yield "reconstruction", caption, pictures.reconstruction(images, hidden, restored)
        elif restored is not None:
            rows = [pictures.resized(images, restored.shape[1]), restored]
            yield "reconstruction", "pictures, and what is made of their codes", pictures.grid(rows)
        elif hidden is not None:
            yield "masks", "pictures, and what is seen of them", pictures.masks(images, hidden)
        if gives_features(objective):
            sheet = self.on_the_way.neighbours(params, extras, self.first_of(TRAINING), stop)
            yield "neighbours", "pictures, and their nearest neighbours among training pictures", sheet


def gives_features(objective: Objective) -> bool:
    """Whether it learns a vector for each picture; a tokenizer does not."""
    return "features" in objective.output_names


def seen(objective: Objective, seed: int, images: np.ndarray) -> Iterator[tuple[str, str, Image.Image]]:
    """The random views of pictures, where the objective makes several."""
    batch = objective.batch_spec(len(images))
    batch = {name: np.zeros(leaf.shape, leaf.dtype) for name, leaf in batch.items()}
    batch |= {"image": images, "valid": np.ones(len(images), bool)}
    inputs = examples.observed(objective, seed, 0, batch).inputs
    if "views" in inputs:
        images_seen = innermost(objective).images
        views = [np.asarray(pixels.denormalised(view, images_seen)) for view in inputs["views"]]
        yield "views", "pictures, and the views that the model sees", pictures.views(images, *views)


def shown(objective: Objective, rules: Rules, params, extras, images: np.ndarray) -> dict[str, np.ndarray]:
    """Of "reconstruction" and "hidden_patches" what the objective gives of pictures."""
    names = tuple(name for name in ("reconstruction", "hidden_patches") if name in objective.output_names)
    if not names:
        return {}
    placed = {"image": place(images, rules.rows(images.shape))}
    found = named_outputs(objective, rules, names, params, extras, placed, whole=True)
    return jax.device_get(distributed.settled(found))
