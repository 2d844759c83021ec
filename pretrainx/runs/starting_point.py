"""What a new run takes from the run that `config.init_from` names: which leaves, under which names, fitted to its sizes."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np

from pretrainx.adapt.linear_probe import LinearProbeConfig
from pretrainx.adapt.lora import Lora, LoraConfig
from pretrainx.adapt.methods import FullConfig
from pretrainx.core import config as strict
from pretrainx.core import paths
from pretrainx.core.axes import Names
from pretrainx.core.errors import ConfigError
from pretrainx.core.labelled import Labelled
from pretrainx.objectives.objective import Objective
from pretrainx.runs.data import About
from pretrainx.runs.load import read_tokenizer
from pretrainx.runs.parts import Parts
from pretrainx.runs.recipe import InitConfig, Recipe, parse, read_recipe
from pretrainx.runs.resized import Resizing, resizing
from pretrainx.training import state as states
from pretrainx.training.restore import MisfitError, newest_whole, read_leaves

# Names under which the paradigms of pictures keep the network that they train.
NETWORKS = ("backbone", "encoder", "image")
STATISTICS = "batch_stats"
# What these train has a place in any run.
WHOLE = (FullConfig, LinearProbeConfig)


@dataclass
class Start:
    """Leaves of another run, ready for `states.create`.

    Attributes:
      params, statistics: {path in the new run: array} of parameters, and of running statistics among the extras.
      step: of the checkpoint that they are from.
      lines: what was fitted, and what is not there and starts anew.
      unused: how many parameters of the other run found no place.
    """

    params: dict[str, jax.Array] = field(default_factory=dict)
    statistics: dict[str, jax.Array] = field(default_factory=dict)
    step: int = 0
    lines: list[str] = field(default_factory=list)
    unused: int = 0

    def said(self, source: str) -> str:
        total = len(self.params) + sum("anew" in line or "initialised" in line for line in self.lines)
        rest = f"; {self.unused} others of it have no place here" if self.unused else ""
        return f"parameters from {source}, step {self.step}: {len(self.params)} of {total} leaves{rest}"


def read_start(recipe: Recipe, parts: Parts, about: About, tokenizer: Any = None) -> Start:
    """What `config.init_from` gives to a run of this recipe. about: what its data say of themselves; tokenizer: their own, for
    vocabularies of another one.

    Raises MisfitError naming the leaves that differ where the other run is of another model.
    """
    source, here = Path(recipe.init_from), recipe.adapt
    like = states.abstract(parts.objective, parts.optimizer, parts.options, parts.found)
    axes, directory = dict(parts.found.params_axes), source / "checkpoints"

    def read(step: int, meta: dict) -> Start:
        there, kept = parse(meta["config"]).adapt, same_task(meta, recipe, about)
        same = isinstance(here, LoraConfig) and isinstance(there, LoraConfig) and alike(there, here)
        given = {
            "heads": () if kept else parts.objective.heads,
            "words": words_of(source, meta, tokenizer),
            "merge": Lora(Objective(), there).merged if isinstance(there, LoraConfig) and not same else None,
        }
        start = taken(directory, step, meta, like.full_params(), like.extras, axes, recipe.init, **given)
        if kept and parts.objective.heads:
            start.lines.append(f"{', '.join(parts.objective.heads)}: kept, the other run learned the same task")
        if not isinstance(there, (*WHOLE, LoraConfig)) and type(there) is not type(here):
            start.lines.append(
                f"the run was adapted by a {type(there).__name__}, this one is by a {type(here).__name__}: "
                "what it learned there is left out"
            )
        return start

    return newest_whole(directory, read, recipe.init.step)


def alike(there: LoraConfig, here: LoraConfig) -> bool:
    """Whether updates of one are updates of the other."""
    return dataclasses.replace(there, dropout=0.0) == dataclasses.replace(here, dropout=0.0)


def same_task(meta: dict, recipe: Recipe, about: About) -> bool:
    """Whether the other run learned the same labels by the same objective: then its head is worth keeping."""
    data, name = meta["data"], strict.as_dict(recipe)["objective"]["name"]
    if meta.get("config", {}).get("objective", {}).get("name") != name:
        return False
    if isinstance(about, Labelled):
        known = data.get("labelled") or {}
        return (known.get("target"), tuple(known.get("classes", ()))) == (about.target, about.classes)
    classes = (data.get("images") or {}).get("classes")
    return bool(classes) and tuple(classes) == getattr(about, "classes", ())


def words_of(source: Path, meta: dict, tokenizer: Any) -> np.ndarray | None:
    """int[V]: for each id of a run's tokenizer that of the same word in the other run's, -1 where it has none.

    None where there are no words, or both tokenizers are the same.
    """
    if tokenizer is None or meta["data"].get("tokenizer") in (None, tokenizer.digest):
        return None
    other = read_tokenizer(read_recipe(source), source, meta).spellings
    found = np.full(tokenizer.vocabulary.size, -1, np.int64)
    for spelling, index in tokenizer.spellings.items():
        found[index] = other.get(spelling, -1)
    if (found >= 0).any():
        return found
    raise MisfitError(
        "the two tokenizers have no token in common",
        where=f"config.init_from={source}",
        why="its vocabulary is another one",
        do="set config.data.tokenizer to the tokenizer.json of that run",
    )


def taken(
    directory: Path,
    step: int,
    meta: dict,
    params: paths.Tree,
    extras: paths.Tree,
    axes: dict[str, Names],
    init: InitConfig,
    heads: Iterable[str] = (),
    words: np.ndarray | None = None,
    merge: Callable[[paths.Tree], tuple[Any, paths.Tree]] | None = None,
) -> Start:
    """The leaves of a step for abstract parameters and extras, with shardings.

    axes: {path: names} of the parameters; heads: top names of those that start anew whatever the step has; words: as
    `words_of` has them; merge: `Lora.merged` of a run whose updates become a part of its kernels.
    """
    stored = renamed(meta["leaves"], init, {path.split("/")[0] for path, _ in paths.leaves(params)})
    start, beside = Start(step=step), {}
    if merge:
        own = [path for path in stored if path.startswith("params/") and path.rpartition("/")[2].startswith("lora_")]
        beside = {path.removeprefix("params/"): stored.pop(path) for path in own}
    asked, fitting = matched(start, stored, params, axes, init, heads, words)
    if not asked:
        raise MisfitError(
            "the checkpoint has no parameter of this model",
            where=str(directory),
            why=f"{len(start.lines)} parameters were looked for; it has {', '.join(sorted(tops(meta)))}",
            do="set config.init_from to a run of the same model family, or give config.init.rename",
        )
    for path, leaf in paths.leaves(extras):
        if f"/{STATISTICS}/" in f"/{path}":
            tail = path[path.index(f"{STATISTICS}/") :]
            ends = (entry for name, entry in stored.items() if name.startswith("extras/") and name.endswith(f"/{tail}"))
            found = stored.get(f"extras/{path}") or next(ends, None)
            if found is None or tuple(found[1]["shape"]) != leaf.shape:
                start.lines.append(f"{path}: not in the checkpoint, starts anew")
            else:
                asked[f"extras/{path}"] = *found, leaf
    start.unused = sum(path.startswith("params/") for path in stored)
    whole = replicated(next(iter(jax.tree.leaves(params))).sharding)
    wanted = {
        name: jax.ShapeDtypeStruct(
            tuple(entry["shape"]), np.dtype(entry["dtype"]), sharding=whole if path in fitting else leaf.sharding
        )
        for path, (name, entry, leaf) in asked.items()
    }
    for name, entry in beside.values():
        wanted[name] = jax.ShapeDtypeStruct(tuple(entry["shape"]), np.dtype(entry["dtype"]), sharding=whole)
    leaves = read_leaves(directory, step, wanted, meta)
    found = {path: leaves[name] for path, (name, _, _) in asked.items()}
    if beside:
        kernels = {f"{path.rpartition('/')[0]}/kernel" for path in beside}
        tree = {path: found[path] for path in kernels & found.keys()} | {
            path: leaves[name] for path, (name, _) in beside.items() if f"{path.rpartition('/')[0]}/kernel" in found
        }
        found |= dict(paths.leaves(merge(paths.from_leaves(tree.items()))[1]))
        start.lines.append(f"{len(kernels)} kernels of the other run have its updates merged into them")
    for path, (_, _, leaf) in asked.items():
        array = fitted(fitting[path], found[path], leaf) if path in fitting else found[path]
        into, name = (
            (start.statistics, path.removeprefix("extras/")) if path.startswith("extras/") else (start.params, path)
        )
        into[name] = jax.device_put(array.astype(leaf.dtype), leaf.sharding)
    return start


def replicated(sharding: jax.sharding.NamedSharding) -> jax.sharding.NamedSharding:
    """Whole on each device of the same mesh."""
    return jax.sharding.NamedSharding(sharding.mesh, jax.sharding.PartitionSpec())


def matched(
    start: Start,
    stored: dict[str, tuple[str, dict]],
    params: paths.Tree,
    axes: dict[str, Names],
    init: InitConfig,
    heads: Iterable[str],
    words: np.ndarray | None,
) -> tuple[dict[str, tuple], dict[str, Resizing]]:
    """({path here: (path there, entry there, abstract leaf here)}, {path: how it is fitted}); what is matched is taken out of
    `stored`, what is told is put into `start.lines`. MisfitError for leaves that cannot be fitted."""
    asked, fitting, differing = {}, {}, []
    known = [path for path, _ in paths.leaves(params)]
    skipped = {path for pattern in init.skip for path in paths.matching(pattern, known, "config.init.skip")}
    anew = lambda path: path.split("/")[0] in heads or path in skipped
    for path, leaf in paths.leaves(params):
        found = stored.pop(f"params/{path}", None)
        if anew(path) or found is None:
            start.lines.append(f"{path}: " + ("starts anew" if found else "not in the checkpoint, initialised"))
            continue
        name, entry = found
        shape, mapped = tuple(entry["shape"]), words if "vocab" in axes[path] else None
        if shape != leaf.shape or mapped is not None:
            change = resizing(path, axes[path], shape, leaf.shape, mapped)
            if change is None:
                differing.append(f"{path}: {list(shape)} there, {list(leaf.shape)} here")
                continue
            fitting[path] = change
            start.lines.append(f"{path}: {change.what}")
        asked[path] = name, entry, leaf
    if differing:
        raise MisfitError(
            "the run to start from is of another model",
            where="config.init_from",
            why="these leaves differ: " + "; ".join(differing),
            do="give config.model the sizes of that run, or let leaves start anew: --config.init.skip=\"('PATTERN',)\"",
        )
    return asked, fitting


def fitted(change: Resizing, array: jax.Array, leaf: jax.ShapeDtypeStruct) -> jax.Array:
    """The array in the shape of the abstract leaf, laid out as it is."""
    whole = np.asarray(change(np.asarray(array)))
    return jax.make_array_from_callback(leaf.shape, leaf.sharding, lambda index: whole[index])


def renamed(leaves: dict[str, dict], init: InitConfig, wanted: set[str]) -> dict[str, tuple[str, dict]]:
    """{section and path as the new run calls it: (path in the checkpoint, its entry)}, of averages where they are kept: those
    are what the other run was evaluated with.

    wanted: top names of the new run's parameters. A network of pictures is found under another paradigm's name for it.
    """
    there = tops({"leaves": leaves})
    rules = [(rule.pattern, rule.to) for rule in init.rename]
    for name in NETWORKS:
        other = next((each for each in NETWORKS if each in there and each not in wanted), None)
        if name in wanted and name not in there and other:
            rules.append((f"{other}/(.*)", rf"{name}/\1"))
    found = {}
    for path in leaves:
        section, _, rest = path.partition("/")
        if section not in ("params", "extras"):
            continue
        place = f"ema/{rest}" if section == "params" and f"ema/{rest}" in leaves else path
        front = ""
        if section == "extras" and f"{STATISTICS}/" in rest:
            front, _, rest = rest.partition(f"{STATISTICS}/")
            front += f"{STATISTICS}/"
        for pattern, to in rules:
            if re.fullmatch(pattern, rest):
                rest = re.sub(pattern, to, rest)
                break
        name = f"{section}/{front}{rest}"
        if name in found:
            raise ConfigError(
                "two parameters of the other run are given one name",
                where="config.init.rename",
                why=f"{found[name][0]} and {path} become {name}",
                do="let the patterns tell them apart",
            )
        found[name] = place, leaves[place]
    unmatched = [rule.pattern for rule in init.rename if not any(matches(rule.pattern, path) for path in leaves)]
    if unmatched:
        raise ConfigError(
            "nothing in the checkpoint has a name that is to be changed",
            where="config.init.rename",
            why=f"{unmatched[0]!r} matches none of its parameters, such as {next(iter(sorted(leaves)))!r}",
            do="patterns match whole paths: write 'encoder/(.*)', not 'encoder'",
        )
    return found


def matches(pattern: str, path: str) -> bool:
    return re.fullmatch(pattern, path.partition("/")[2]) is not None


def tops(meta: dict) -> set[str]:
    """Top names of a checkpoint's parameters."""
    return {path.split("/")[1] for path in meta["leaves"] if path.startswith("params/")}
