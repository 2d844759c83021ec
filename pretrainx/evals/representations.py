"""What the representations of a run are worth: neighbours, linear read-outs and collapse measures of its frozen encoder."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from pretrainx.core import random
from pretrainx.core.errors import ConfigError, nearest
from pretrainx.core.images import Images
from pretrainx.evals import collapse, knn, linear_probe, pictures
from pretrainx.evals.features import LAYER, PIXEL_SIDE, features, pixels
from pretrainx.objectives.augmentation import SETTINGS
from pretrainx.objectives.objective import Objective
from pretrainx.parallel.rules import Rules

NEIGHBOURS = 5
# Rows of a split that collapse measures are of: four for each dimension where there are so many, since fewer have a smaller
# rank; at least and at most these.
MEASURED = (2048, 16384)


@dataclass(frozen=True)
class RepresentationConfig:
    """Attributes:
    knn_k, knn_temperature: of the weighted nearest neighbours; k 0 leaves them out.
    probe: the protocol of a linear read-out, as `evals/linear_probe.py` describes them, or several; "" is none.
    probe_epochs: of "ssl" and "moco"; 0: as published. augment: these two see new crops and flips in every epoch.
    labels_per_class: so many labelled pictures of each class, drawn by the seed, are known; 0: all.
    seeds: over so many draws of those, means and 95 % intervals are reported.
    train_limit: without labels_per_class, features of at most so many training pictures; limit: of the evaluated split. 0: all.
    pictures: of so many pictures samples are shown; 0: none.
    """

    knn_k: int = field(default=20, metadata={"min": 0})
    knn_temperature: float = field(default=0.07, metadata={"above": 0})
    probe: str | tuple[str, ...] = ""
    probe_epochs: int = field(default=0, metadata={"min": 0})
    augment: bool = False
    labels_per_class: int = field(default=0, metadata={"min": 0})
    seeds: int = field(default=1, metadata={"min": 1})
    train_limit: int = field(default=10_000, metadata={"min": 0})
    limit: int = field(default=0, metadata={"min": 0})
    pictures: int = field(default=8, metadata={"min": 0})

    def __post_init__(self):
        for name in self.probes:
            if name not in linear_probe.PROTOCOLS:
                raise ConfigError(
                    f"unknown protocol {name!r} of a linear read-out",
                    where="config.evals.representations.probe",
                    why=nearest(name, linear_probe.PROTOCOLS),
                    do="name one of " + ", ".join(linear_probe.PROTOCOLS) + ", several as a tuple, or leave it out",
                )

    @property
    def probes(self) -> tuple[str, ...]:
        """The protocols, each once."""
        given = (self.probe,) if isinstance(self.probe, str) else self.probe
        return tuple(dict.fromkeys(filter(None, given)))

    def described(self) -> list[str]:
        """What is evaluated, in words."""
        neighbours = f"{self.knn_k} nearest neighbours at temperature {self.knn_temperature:g}"
        few = f" with {self.labels_per_class} labels per class" if self.labels_per_class else ""
        found = (self.knn_k, neighbours + few), (self.probes, f"linear probe {', '.join(self.probes)}" + few)
        return [text for wanted, text in (*found, (self.pictures, f"{self.pictures} pictures to look at")) if wanted]


@dataclass
class Representations:
    """Called with (params, extras), gives {"knn/<how>/<split>": accuracy, "probe/<how>/<split>", "collapse/<what>/<split>"}.

    Attributes:
      train: (pictures uint8[N, S, S, C], labels int32[N] or None), what is known.
      splits: {name: (pictures, labels or None)}, what is asked; without labels only collapse is measured.
      rows: pictures at once. layer: of the objective's outputs, in every metric's name.
    """

    objective: Objective
    rules: Rules
    config: RepresentationConfig
    images: Images
    train: tuple[np.ndarray, np.ndarray | None]
    splits: Mapping[str, tuple[np.ndarray, np.ndarray | None]]
    seed: int = 0
    rows: int = 256
    layer: str = LAYER
    # (params, extras, rows of training pictures, their features): the bank of the first draw, until the sheet has taken it.
    _kept: tuple | None = field(default=None, init=False, repr=False)

    def __call__(self, params: Any, extras: Any, stop: Callable[[], bool] = lambda: False) -> dict[str, float]:
        """{} when `stop()` became true on the way. Of several draws "<metric>/interval" is half of the 95 % interval."""

        def keep(rows: np.ndarray, bank: np.ndarray) -> None:
            self._kept = params, extras, rows, bank

        return self._measured(self._look(params, extras), self.layer, stop, keep, spread=True)

    def pixels(self) -> dict[str, float]:
        """Neighbours and probe of raw pixels, the floor under every encoder; never with augmentation. As layer "pixels", or
        "pixels32" where pictures are larger than that and were resampled."""
        layer = "pixels" if self.images.size <= PIXEL_SIDE else f"pixels{PIXEL_SIDE}"
        return self._measured(lambda images, **_: pixels(images), layer, lambda: False)

    def neighbours(
        self, params: Any, extras: Any, split: str, stop: Callable[[], bool] = lambda: False
    ) -> Image.Image | None:
        """The first pictures of a split, each with the training pictures nearest to it. None when `stop()` became true."""
        rows = self._drawn(len(self.train[0]), self.config.train_limit)
        images, truth = (each if each is None else each[: self.config.pictures] for each in self.splits[split])
        bank = self._bank(params, extras, rows)
        if stop():
            return None
        found, _ = knn.nearest(bank, self._look(params, extras)(images), min(NEIGHBOURS, len(rows)))
        known, labels = self.train[0], self.train[1]
        if labels is None or truth is None:
            return pictures.neighbours(images, known[rows[found]])
        return pictures.neighbours(images, known[rows[found]], truth, labels[rows[found]], self.images.classes)

    def _bank(self, params: Any, extras: Any, rows: np.ndarray) -> np.ndarray:
        """Features of these training pictures: those that were just measured with, where they are the same. They are kept no
        longer: they hold on to the parameters."""
        kept, self._kept = self._kept, None
        if kept and kept[0] is params and kept[1] is extras and np.array_equal(kept[2], rows):
            return kept[3]
        return self._look(params, extras)(self.train[0][rows])

    def _look(self, params: Any, extras: Any) -> Callable[..., np.ndarray]:
        return functools.partial(features, self.objective, self.rules, params, extras, layer=self.layer, rows=self.rows)

    def _measured(
        self,
        look: Callable[..., np.ndarray],
        layer: str,
        stop: Callable[[], bool],
        keep: Callable[[np.ndarray, np.ndarray], None] = lambda rows, bank: None,
        spread: bool = False,
    ) -> dict[str, float]:
        """`spread`: collapse is measured too."""
        values, labelled = {}, {}
        for split, given in self.splits.items():
            images, truth = self._limited(given, self.config.limit)
            z = look(images)
            few = z[: min(max(MEASURED[0], 4 * z.shape[1]), MEASURED[1])]
            measures = collapse.measures(few) if spread else {}
            values |= {f"collapse/{name}_{layer}_n{len(few)}/{split}": value for name, value in measures.items()}
            if truth is not None and self.train[1] is not None and (self.config.knn_k or self.config.probes):
                labelled[split] = z, truth
            if stop():
                return {}
        draws, before = [], None
        for seed in range(self.seed, self.seed + self.config.seeds) if labelled else ():
            rows, labels = self._known(seed)
            if not np.array_equal(rows, before):  # draws of all pictures are the same one
                known, before = look(self.train[0][rows]), rows
                if seed == self.seed:
                    keep(rows, known)
            for split, (z, truth) in labelled.items():
                draws.append({})
                if self.config.knn_k:
                    draws[-1] |= self._neighbours(known, labels, z, truth, layer, split)
                changed = functools.partial(self._changed, look, self.train[0][rows], seed)
                for kind in self.config.probes:
                    draws[-1] |= self._probe(kind, known, changed, labels, z, truth, layer, split, seed)
                    if stop():
                        return {}
                if stop():
                    return {}
        for metric in dict.fromkeys(metric for draw in draws for metric in draw):
            mean, half = linear_probe.interval([draw[metric] for draw in draws if metric in draw])
            values |= {metric: mean} | ({f"{metric}/interval": half} if self.config.seeds > 1 else {})
        return values

    def _bank_of(self, known) -> str:
        """How many labelled pictures were known, as metrics are named."""
        return f"{self.config.labels_per_class}-per-class" if self.config.labels_per_class else f"n{len(known)}"

    def _neighbours(self, known, labels, z, truth, layer: str, split: str) -> dict[str, float]:
        k, temperature = min(self.config.knn_k, len(known)), self.config.knn_temperature
        metric = f"knn/{knn.name(k, temperature, layer)}_{self._bank_of(known)}/{split}"
        return {metric: knn.accuracy(known, labels, z, truth, k, temperature)}

    def _probe(
        self, kind: str, known, changed, labels, z, truth, layer: str, split: str, seed: int
    ) -> dict[str, float]:
        epochs = self.config.probe_epochs
        augmented = self.config.augment and kind != "logistic" and layer == self.layer
        metric = f"probe/{linear_probe.name(kind, layer, augmented, epochs)}_{self._bank_of(known)}/{split}"
        classes = max(len(self.images.classes), int(max(labels.max(), truth.max())) + 1)
        given = changed if augmented else known
        return {metric: linear_probe.accuracy(kind, given, labels, z, truth, classes, seed, epochs)}

    @staticmethod
    def _changed(look, images: np.ndarray, seed: int, epoch: int) -> np.ndarray:
        return look(images, augmentation=SETTINGS["probe"], key=random.stream(seed, random.EVALUATE, epoch))

    def _known(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """(rows of the training pictures, their labels) of one draw."""
        labels = np.asarray(self.train[1])
        known = linear_probe.draw(labels, self.config.labels_per_class, seed)
        most = 0 if self.config.labels_per_class else self.config.train_limit
        if most and len(known) > most:
            known = np.sort(np.random.default_rng(seed).choice(known, most, replace=False))
        return known, labels[known]

    def _limited(self, given, limit: int) -> tuple[np.ndarray, np.ndarray | None]:
        """A draw of at most so many, the same at every step: a folder's first pictures are all of one class."""
        images, labels = given
        if not limit or len(images) <= limit:
            return images, labels
        rows = self._drawn(len(images), limit)
        return images[rows], None if labels is None else labels[rows]

    def _drawn(self, count: int, limit: int) -> np.ndarray:
        if not limit or count <= limit:
            return np.arange(count)
        return np.sort(np.random.default_rng(self.seed).choice(count, limit, replace=False))
