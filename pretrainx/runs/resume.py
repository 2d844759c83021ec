"""Going on with a run: which parts of its configuration may have changed since the checkpoint, and its state."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pretrainx.core import config as strict
from pretrainx.core.errors import CheckpointError, ConfigError, DataError, nearest
from pretrainx.core.json_lines import read
from pretrainx.core.readable import duration
from pretrainx.parallel import distributed
from pretrainx.runs.recipe import Recipe, parse
from pretrainx.training.restore import Restored, read_meta, steps_in
from pretrainx.training.state import TrainState

SAFE, WARN, REFUSE = "safe", "warn", "refuse"


@dataclass(frozen=True)
class Rule:
    """Config keys whose whole dotted path matches `pattern`, the class of a change of theirs, and the reason."""

    pattern: str
    kind: str
    why: str


# The first rule that matches counts. `safe` is told, `warn` is a warning, `refuse` needs --allow_change.
RULES = (
    Rule(r"seed", REFUSE, "rows, masks and dropout are drawn from it"),
    Rule(r"train\.batch_size", REFUSE, "it decides which rows a step reads"),
    Rule(r"data\..*", REFUSE, "it decides which tokens a step reads"),
    Rule(r"train\.grad_clip", WARN, "updates are scaled otherwise from here on"),
    Rule(r"train\..*", SAFE, "the length of the run, or when it is looked at"),
    Rule(
        r"model\.((image|text)\.)?(remat|unroll|attention)|objective\.(loss\.chunks|gather|form|block)",
        SAFE,
        "the same mathematics, computed otherwise",
    ),
    Rule(r"model\.((image|text)\.)?dropout", WARN, "the model is regularised otherwise from here on"),
    Rule(r"(model|adapt|preserve)\..*", REFUSE, "the parameters were trained as another model's"),
    Rule(r"objective\.network(\..*)?", SAFE, "the tokenizer stays the one that is in the checkpoint"),
    Rule(r"objective\..*", REFUSE, "the parameters were trained for another loss"),
    Rule(r"precision\.params", REFUSE, "parameters and moments are stored in it"),
    Rule(r"precision\..*", WARN, "rounding differs from here on"),
    Rule(r"optimizer\.moments", REFUSE, "moments are stored in it, and are not rounded or widened in passing"),
    Rule(r"local_sgd\.replicas", REFUSE, "each replica has parameters and an optimizer of its own"),
    Rule(r"local_sgd\..*", WARN, "updates differ from here on"),
    Rule(r"(optimizer|schedule|ema)\..*", WARN, "updates differ from here on"),
    Rule(r"guard\.window", REFUSE, "the window is part of the state"),
    Rule(r"guard\.spike_sigma", WARN, "other steps are skipped from here on"),
    Rule(r"guard\..*", SAFE, "when the run gives up"),
    Rule(r"init_from|init\..*", SAFE, "it is read by a fresh run only"),
    Rule(r"mesh\..*|sharding\..*|distributed\..*", SAFE, "the same mathematics on other devices"),
    Rule(r"(checkpoint|evals|writers|watchdog|profile|alarm)\..*|resume", SAFE, "it does not enter the mathematics"),
    Rule(r".*", WARN, "nothing is known of this key"),
)

# Parts of the data's fingerprint that are keys of the config, and one that follows from such a key; a mixture of tasks has
# them for each.
_CONFIGURED = {"seed": "seed", "batch_size": "train.batch_size", "length": "data.length"}
_ROWS = re.compile(r"(.*\.)?sources\[\d+\]\.rows")


@dataclass(frozen=True)
class Change:
    """A config key that differs from the checkpoint's, or a part of the data's fingerprint (`key` is then "data")."""

    key: str
    name: str
    old: Any
    new: Any
    kind: str
    why: str

    def __str__(self) -> str:
        return f"{self.name}: {self.old!r} before, {self.new!r} now"


def rule_of(key: str) -> Rule:
    return next(rule for rule in RULES if re.fullmatch(rule.pattern, key))


def plain(recipe: Recipe) -> dict[str, Any]:
    """The resolved config as a checkpoint keeps it."""
    return json.loads(json.dumps(strict.as_dict(recipe)))


def changes(meta: dict, recipe: Recipe, fingerprint: dict | None) -> list[Change]:
    """What differs from a checkpoint's meta record, refusals first.

    The data are compared by their fingerprint: where it is the same, a key such as data.cache or another path to the same
    documents changes nothing. None leaves the data out.
    """
    imported = "imported" in meta.get("data", ())  # a model from elsewhere has read none of our data
    of_data = strict.difference(meta["data"], fingerprint) if fingerprint is not None and not imported else []
    found = []
    for key, old, new in strict.difference(_completed(meta["config"]), plain(recipe)):
        rule = rule_of(key)
        if key.startswith("data.") and not of_data:
            rule = Rule(rule.pattern, SAFE, "the data are the same")
        found.append(Change(key, f"config.{key}", old, new, rule.kind, rule.why))
    known = {change.key for change in found}
    for path, old, new in of_data:
        configured = _CONFIGURED.get("" if "sources" in path else path.rpartition(".")[2])
        of_width = _ROWS.fullmatch(path) and any(name.rpartition(".")[2] == "length" for name, _, _ in of_data)
        if configured in known or of_width:  # the number of rows follows from their width
            continue
        # A key that is as it was: the objective reads other rows (a T5 with another density, a mixture with other shares).
        found.append(Change("data", f"data, {path}", old, new, REFUSE, "the steps to come would read other data"))
    return sorted(found, key=lambda change: (REFUSE, WARN, SAFE).index(change.kind))


def _completed(values: dict) -> dict:
    """A saved config with the defaults of keys that it was saved without: a key that is new since then is no change."""
    try:
        return plain(parse(values))
    except ConfigError:  # of another version, or with a part that is not there any more: its keys differ as they stand
        return values


def covers(allowed: Iterable[str], key: str) -> bool:
    """Whether one of the names is the key or a section that it lies in."""
    return any(key == name or key.startswith((f"{name}.", f"{name}[")) for name in allowed)


def refuse_unknown(allow_change: Iterable[str], recipe: Recipe) -> None:
    """ConfigError for a name in --allow_change that is neither a section nor a key of the config."""
    known = set()
    for key, _ in strict.flatten(plain(recipe)):
        parts = re.sub(r"\[\d+\].*", "", key).split(".")
        known |= {".".join(parts[: count + 1]) for count in range(len(parts))}
    for name in allow_change:
        if name not in known:
            raise ConfigError(
                f"{name!r} is nothing that may change on resume",
                where="--allow_change",
                why=nearest(name, known),
                do="name sections or keys of the config, such as --allow_change=data,train.batch_size; "
                "for another run start in another --workdir",
            )


def refuse_changes(found: list[Change], allow_change: Iterable[str]) -> None:
    """DataError (of data alone) or CheckpointError where a refused key is not among the allowed ones; lists every change.

    All processes must call it: each has looked at the data by itself.
    """
    said = distributed.exchange("changes", [str(change) for change in found])
    refused = [change for change in found if change.kind == REFUSE and not covers(allow_change, change.key)]
    if not refused:
        return
    keys = sorted({change.key for change in refused})
    of_data = all(covers(("data", "seed", "train.batch_size"), key) for key in keys)
    missing = ["data" if covers(["data"], key) else key for key in keys]
    error = (DataError if of_data else CheckpointError)(
        f"the {'data' if of_data else 'configuration'} changed since the checkpoint",
        where=", ".join(f"config.{key}" for key in keys),
        why="\n".join(f"{change} ({shown(change, allow_change)})" for change in found),
        do="go back to the configuration of the run, start in another --workdir, or pass --allow_change="
        + ",".join(dict.fromkeys([*allow_change, *missing])),
    )
    error.shared = all(changed == said[0] for changed in said)
    raise error


def shown(change: Change, allow_change: Iterable[str]) -> str:
    """The class of a change and its reason, as a person reads it."""
    kind = "allowed" if change.kind == REFUSE and covers(allow_change, change.key) else change.kind
    return f"{kind}: {change.why}"


def blame(directory: Path, recipe: Recipe) -> str:
    """Lines on the changed keys that may be why the newest checkpoint does not fit; a person sets keys, not leaves."""
    for step in reversed(steps_in(directory)):
        try:
            meta = read_meta(directory, step)
        except CheckpointError:
            continue
        return "".join(f"\n{change}" for change in changes(meta, recipe, None) if change.kind == REFUSE)
    return ""


def go_on(
    restored: Restored,
    recipe: Recipe,
    fingerprint: dict,
    allow_change: Iterable[str],
    tell: Callable,
    say: Callable[[str], None],
) -> TrainState:
    """The restored state, after what changed was refused or told. `tell(kind, **facts)` records an event."""
    meta = restored.meta
    found = changes(meta, recipe, fingerprint)
    refuse_changes(found, allow_change)
    ago = duration(max(time.time() - meta["saved"], 0))
    say(f"resumed from step {meta['step']} (saved {ago} ago), wall time so far {duration(meta['wall'])}")
    tell("resumed", step=meta["step"])
    for line in (
        restored.lines if "imported" not in meta["data"] else ()
    ):  # a model from elsewhere has no optimizer state
        tell("warning", text=f"resumed: {line}")
    for change in found:
        facts = {"path": change.name.removeprefix("config."), "old": change.old, "new": change.new}
        tell("config", **facts, change=shown(change, allow_change))
        line = f"resumed: {change.name} is {change.new!r}, was {change.old!r}"
        if change.kind == SAFE:
            say(line)
        else:
            tell("warning", text=f"{line} ({shown(change, allow_change)})")
    return restored.state


def owes_evaluation(recipe: Recipe, step: int, workdir: Path) -> bool:
    """Whether the state of this step should have been evaluated and was not: a signal ends an evaluation at once."""
    if step == 0 or not recipe.train.evaluates(step):
        return False
    records = (record for record in read(workdir / "metrics.jsonl") if record.get("step") == step)
    return not any(name.startswith("eval/") for record in records for name in record)
