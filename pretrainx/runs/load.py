"""A run read back from its workdir: for Python programs (`pretrainx.load`) and for the commands that look at a run."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np

from pretrainx.adapt.wrapper import innermost
from pretrainx.core import paths, random
from pretrainx.core.errors import CheckpointError, ConfigError, DataError
from pretrainx.core.images import Images
from pretrainx.core.labelled import Labelled, LabelledRows
from pretrainx.core.pairs import Pairs
from pretrainx.core.records import ImageRows, PairRows, TextRows
from pretrainx.data.fields import Marks, begins_word, ends_sentence
from pretrainx.data.loader import place
from pretrainx.data.prepared import TOKENIZER
from pretrainx.data.tokenizer import Tokenizer
from pretrainx.evals.held_out import score
from pretrainx.objectives.objective import Objective
from pretrainx.parallel.mesh import MeshConfig
from pretrainx.parallel.rules import Rules, constrain
from pretrainx.runs.data import About
from pretrainx.runs.parts import Parts, assemble
from pretrainx.runs.recipe import Recipe, parse, read_recipe
from pretrainx.training import state as states
from pretrainx.training.restore import BaseError, FormatError, read_leaves, read_meta, steps_in


@dataclass(frozen=True, eq=False)
class Run:
    """One checkpoint of a run, ready for use.

    Attributes:
      step: of the checkpoint; `damaged` says which newer ones could not be read, and why.
      config: the run's configuration, laid over the devices that are here.
      objective, params, extras: as the train step knows them; `params` are the averaged ones where the run keeps an EMA.
      about: what the data say of themselves: a Vocabulary, Images, Pairs, or Labelled.
      tokenizer: encode_batch(texts) -> arrays of ids; decode(ids) -> text. None for models of pictures.
    """

    workdir: Path
    step: int
    config: Recipe
    objective: Objective
    params: paths.Tree
    extras: paths.Tree
    about: About
    tokenizer: Tokenizer | None
    rules: Rules = field(repr=False)
    damaged: tuple[str, ...] = ()

    def outputs(self, batch: dict[str, Any], names: tuple[str, ...] | list[str]) -> dict[str, jax.Array]:
        """The objective's outputs by name, such as {"logits": [B, T, V]} of {"tokens": int[B, T]}; partial inputs are fine."""
        inputs = self._placed({name: value for name, value in batch.items() if name != "valid"})
        return named_outputs(self.objective, self.rules, tuple(names), self.params, self.extras, inputs)

    def features(self, batch: dict[str, Any]) -> jax.Array:
        """float32[B, D]: one vector per row."""
        return self.outputs(batch, ("features",))["features"].astype(np.float32)

    def loss(self, batch: dict[str, Any], seed: int = 0) -> dict[str, float]:
        """{term: weighted mean, "loss": their sum with coefficients} without dropout; masks and noise are drawn from `seed`.

        `batch` has the fields that training rows have ({"tokens": int[B, T + 1]} for causal models, {task: fields} for a
        mixture); rows of fewer tokens are filled up. Those fields that follow from the others may be left out: "valid" (every
        row), "length" (without padding), "segments" (what is not padding is one document), "words" and "sentences" (of the
        tokens), "task" (the first); see `following`. ConfigError where another is missing, or rows are too wide.
        """
        batch = self._placed(self._completed(batch, self.objective.reads))
        key = random.stream(seed, random.EVALUATE, 0)
        totals, weights, _ = jax.device_get(
            score(self.objective, self.rules, self.params, self.extras, batch, key, np.int32(self.step))
        )
        terms = {name: float(total / weights[name]) if weights[name] > 0 else 0.0 for name, total in totals.items()}
        return terms | {"loss": float(sum(term.at(self.step) * terms[term.name] for term in self.objective.terms))}

    def _completed(self, batch: dict[str, Any], reads: Any) -> dict[str, Any]:
        """The batch with what follows from its tokens; rows but those of causal models are padded to the objective's width."""
        if isinstance(reads, PairRows):
            batch = self._with_fields(batch, ("image", "tokens", *reads.fields))
            tokens, pad = np.asarray(batch["tokens"]), self.tokenizer.vocabulary.special("pad")
            tokens = tokens[:, None] if tokens.ndim == 2 else tokens  # one caption of each
            filled = padded(tokens.reshape(-1, tokens.shape[-1]), reads.width, pad, "tokens")
            tokens = filled.reshape(*tokens.shape[:2], -1)
            # Those without a word are none; as rows of data have it, real ones come first.
            told = {"captions": np.maximum(((tokens != pad).sum(2) > 1 + reads.begin).sum(1), 1).astype(np.int32)}
            return {"valid": np.ones(len(tokens), bool)} | told | batch | {"tokens": tokens}
        if isinstance(reads, ImageRows):
            batch = self._with_fields(batch, ("image", *reads.fields))
            return {"valid": np.ones(len(batch["image"]), bool)} | batch
        if isinstance(reads, LabelledRows):
            batch = self._with_fields(batch, ("tokens", *reads.fields))
            batch = {name: np.asarray(value) for name, value in batch.items()}
            if len(batch["tokens"]) and batch["tokens"].shape[1] != reads.width:
                raise ConfigError(
                    "the rows do not fit the objective",
                    where="batch['tokens']",
                    why=f"their shape is {list(batch['tokens'].shape)}; it reads [rows, {reads.width}]",
                    do="take rows of the run's data: prepare(run.config.data, ...).rows(split, run.objective.reads)",
                )
            return {"valid": np.ones(len(batch["tokens"]), bool)} | batch
        if not isinstance(reads, TextRows):
            tasks = {name: of_task for name, _, of_task in reads}
            if batch.keys() != tasks.keys():
                raise ConfigError(
                    "a mixture scores a batch for each of its tasks",
                    where="batch",
                    why=f"it has {', '.join(batch) or 'nothing'}; the tasks are {', '.join(tasks)}",
                    do=f'{{"{next(iter(tasks))}": {{"tokens": ...}}, ...}}',
                )
            return {name: self._completed(batch[name], of_task) for name, of_task in tasks.items()}
        batch = {name: np.asarray(value) for name, value in batch.items()}
        for name in ("tokens", "other") if not reads.overlap else ():
            if name in batch:
                batch[name] = padded(batch[name], reads.width, self.tokenizer.vocabulary.special("pad"), name)
        if "tokens" in batch:
            makers = following(batch["tokens"], self.tokenizer)
            batch = {name: make() for name, make in makers.items() if name in ("valid", *reads.fields)} | batch
        return self._with_fields(batch, ("tokens", *reads.fields))

    def _with_fields(self, batch: dict[str, Any], fields: tuple[str, ...]) -> dict[str, Any]:
        """The batch; ConfigError where it lacks one of the fields."""
        if missing := sorted(set(fields) - batch.keys()):
            raise ConfigError(
                "a batch lacks what the objective reads",
                where=", ".join(f"batch[{name!r}]" for name in missing),
                why=f"it has {', '.join(sorted(batch)) or 'nothing'}; {type(innermost(self.objective)).__name__} reads "
                + ", ".join(sorted({*fields, "valid"})),
                do="give every field; run.outputs takes partial inputs",
            )
        return batch

    def _placed(self, batch: dict[str, Any]) -> dict[str, jax.Array]:
        arrays = jax.tree.map(np.asarray, batch)
        return place(arrays, jax.tree.map(lambda array: self.rules.rows(array.shape), arrays))


def padded(rows: np.ndarray, width: int, pad: int, name: str) -> np.ndarray:
    """Rows int[B, t] filled up behind to int[B, width]. ConfigError for wider ones."""
    if rows.ndim != 2 or rows.shape[1] > width:
        raise ConfigError(
            "the rows do not fit the objective",
            where=f"batch[{name!r}]",
            why=f"their shape is {list(rows.shape)}; it reads [rows, {width}], or fewer tokens that it fills up",
            do=f"cut texts to {width} tokens" if rows.ndim == 2 else "give one row of ids for each text",
        )
    return np.pad(rows, ((0, 0), (0, width - rows.shape[1])), constant_values=pad)


def following(tokens: np.ndarray, tokenizer: Tokenizer) -> dict[str, Callable[[], np.ndarray]]:
    """{field: what makes it} of rows int[B, T] that each begin and end with a document, padding behind it."""
    pad, end = tokenizer.vocabulary.special("pad"), tokenizer.end
    marks = lambda: Marks(pad, end, tokenizer.word_starts, tokenizer.sentence_ends)
    before = np.pad(tokens[:, :-1], ((0, 0), (1, 0)), constant_values=end)
    after = np.pad(tokens[:, 1:], ((0, 0), (0, 1)), constant_values=end)
    real = tokens != pad
    return {
        "valid": lambda: np.ones(len(tokens), bool),
        "length": lambda: np.where(real, np.arange(1, tokens.shape[1] + 1), 0).max(1).astype(np.int32),
        "segments": lambda: real.astype(np.int32),
        "task": lambda: np.zeros(len(tokens), np.int32),
        "words": lambda: begins_word(tokens, before, marks()) & real,
        "sentences": lambda: ends_sentence(tokens, before, after, marks()) & real,
    }


@functools.partial(jax.jit, static_argnums=(0, 1, 2), static_argnames="whole")
def named_outputs(objective: Objective, rules: Rules, names: tuple[str, ...], params, extras, inputs, *, whole=False):
    """The objective's outputs as they come to lie over the mesh, or `whole` on each device, where any process can read them."""
    with rules.bound():
        found = objective.outputs(params, extras, inputs, names)
        return jax.tree.map(lambda leaf: constrain(leaf, *[None] * leaf.ndim), found) if whole else found


def load(workdir: str | Path, step: int | None = None) -> Run:
    """The run in `workdir` at `step`, or at the newest step that reads back whole. Nothing is written.

    It is laid over the devices of this process, however many there are. Raises ConfigError where `workdir` is no run,
    CheckpointError where there is no such step, none is whole, or one is of another version, DataError where the tokenizer
    is not the run's.
    """
    workdir = Path(workdir)
    recipe = read_recipe(workdir)
    damaged = []
    for found in _wanted(workdir, step):
        try:
            meta = read_meta(workdir / "checkpoints", found)
            about, tokenizer = read_about(recipe, workdir, meta)
            recipe, parts = rebuild(parse(meta["config"]), about)
            params, extras = _read(workdir / "checkpoints", found, meta, parts)
        except (FormatError, BaseError):
            raise
        except CheckpointError as error:
            damaged.append(f"step {found}: {error.what}: {error.where}: {error.why}")
            if step is not None:
                raise
            continue
        objective, rules = parts.objective, parts.rules
        return Run(workdir, found, recipe, objective, params, extras, about, tokenizer, rules, tuple(damaged))
    raise CheckpointError(
        "no checkpoint is usable",
        where=str(workdir / "checkpoints"),
        why="\n".join(damaged),
        do=f"pretrainx ckpt verify --workdir={workdir}",
    )


def data_directory(recipe: Recipe, workdir: Path) -> Path:
    """Where the prepared data of a run are."""
    return Path(recipe.data.cache) if recipe.data.cache else workdir / "data"


def prepared_directory(recipe: Recipe, workdir: Path) -> Path:
    """The same, where it is there. DataError otherwise: a run that is looked at is not prepared anew."""
    directory = data_directory(recipe, workdir)
    if not directory.is_dir():
        raise DataError(
            "the run's data are missing",
            where=str(directory),
            why="no such directory",
            do="copy the run with its data directory, or restore config.data.cache",
        )
    return directory


def read_about(recipe: Recipe, workdir: Path, meta: dict) -> tuple[About, Tokenizer | None]:
    """(what the data say of themselves, the tokenizer of text), of a checkpoint with this meta record."""
    images = Images.from_json(meta["data"]["images"]) if "images" in meta["data"] else None
    if "tokenizer" not in meta["data"]:
        return images, None
    tokenizer = read_tokenizer(recipe, workdir, meta)
    if "labelled" in meta["data"]:
        return Labelled.from_json(tokenizer.vocabulary, meta["data"]["labelled"]), tokenizer
    return (Pairs(images, tokenizer.vocabulary) if images else tokenizer.vocabulary), tokenizer


def read_tokenizer(recipe: Recipe, workdir: Path, meta: dict) -> Tokenizer:
    """The tokenizer of a checkpoint with this meta record; DataError where it is missing or another one."""
    path = data_directory(recipe, workdir) / TOKENIZER
    if "imported" in meta["data"]:  # nothing was prepared for a model from elsewhere: it came with its tokenizer
        path = workdir / TOKENIZER
    if not path.is_file():
        raise DataError(
            "the run's tokenizer is missing",
            where=str(path),
            why="no such file",
            do="copy the run with its data directory, or restore config.data.cache",
        )
    tokenizer = Tokenizer.load(path, recipe.data.specials, recipe.data.sentinels)
    if tokenizer.digest != meta["data"]["tokenizer"]:
        raise DataError(
            "the tokenizer is not the one that the run was trained with",
            where=str(path),
            why=f"sha256 {tokenizer.digest[:12]}..., in the checkpoint {meta['data']['tokenizer'][:12]}...",
            do="restore the file that the run was trained with",
        )
    return tokenizer


def rebuild(recipe: Recipe, about: About) -> tuple[Recipe, Parts]:
    """The recipe and its parts on the devices that are here: over its own mesh where that fits them.

    Else parameters are spread over all devices, or, where its batch does not divide over these, kept on one.
    """
    spread = dataclasses.replace(recipe, mesh=MeshConfig(data=1, fsdp=-1))
    for candidate in (recipe, spread):
        with contextlib.suppress(ConfigError):
            return candidate, assemble(candidate, about)
    one = dataclasses.replace(recipe, mesh=MeshConfig())
    return one, assemble(one, about, jax.devices()[:1])


def _wanted(workdir: Path, step: int | None) -> list[int]:
    """The steps to try, best first."""
    steps = steps_in(workdir / "checkpoints")
    if step in steps:
        return [step]
    if steps and step is None:
        return steps[::-1]
    raise CheckpointError(
        "the run has no checkpoint" + (f" of step {step}" if step is not None and steps else ""),
        where=str(workdir / "checkpoints"),
        why=f"steps there: {', '.join(map(str, steps)) or 'none'}",
        do=f"pretrainx ckpt list --workdir={workdir}",
    )


def _read(directory: Path, step: int, meta: dict, parts: Parts) -> tuple[paths.Tree, paths.Tree]:
    """(parameters, the averaged ones where they are kept; extras), verified; the optimizer's state is not read."""
    like = states.abstract(parts.objective, parts.optimizer, parts.options, parts.found)
    stored = meta["leaves"]
    wanted = {}
    for path, leaf in paths.leaves(like.full_params()):
        averaged = f"ema/{path}" in stored
        wanted[f"ema/{path}" if averaged else f"params/{path}"] = leaf
    for path, leaf in paths.leaves(like.extras):
        wanted[f"extras/{path}"] = leaf
    for path, leaf in wanted.items():
        if path not in stored or (tuple(stored[path]["shape"]), stored[path]["dtype"]) != (leaf.shape, str(leaf.dtype)):
            raise CheckpointError(
                "the checkpoint does not fit its own configuration",
                where=f"{directory / str(step)}, leaf {path}",
                why=f"stored {stored.get(path, 'nothing')}, expected {leaf.dtype}{list(leaf.shape)}",
                do="load it with the version of pretrainx that wrote it (pretrainx ckpt inspect names it)",
            )
    found = read_leaves(directory, step, wanted, meta)
    section = lambda name: {
        path.removeprefix(f"{name}/"): leaf for path, leaf in found.items() if path.startswith(f"{name}/")
    }
    params = paths.from_leaves((section("params") | section("ema")).items())
    extras = section("extras")
    return params, paths.map_leaves(lambda path, _: extras[path], like.extras)
