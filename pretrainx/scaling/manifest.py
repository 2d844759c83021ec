"""The list of runs of a study, written by `scaling plan` and read by everything after it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pretrainx.core.errors import ConfigError
from pretrainx.core.whole_file import write_whole

NAME = "manifest.json"


@dataclass(frozen=True)
class Run:
    """One run of a study.

    Attributes:
      id: readable parts and a hash of the resolved config: the same run has the same id in every plan.
      changes: {dotted key: value} in which its config differs from the study's.
      config: the whole run's config, as `pretrainx train --config=FILE.json` takes it.
      facts: what the plan knows of it: budget, parameters (by convention), tokens, unique_tokens, flops, flops_6nd, steps,
        learning_rate, batch_size, rule, ...; numbers and strings.
    """

    id: str
    changes: dict[str, Any]
    config: dict[str, Any]
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Manifest:
    """Attributes:
    kind: "isoflop", "ladder", "both" (an isoFLOP study and a ladder) or "grid".
    study: the study section as it was resolved.
    facts: of the whole: convention (of FLOPs), counted (what N counts), unit (of D), total FLOPs, notes.
    runs: in the order in which they are started: small ones first.
    """

    kind: str
    study: dict[str, Any]
    facts: dict[str, Any]
    runs: tuple[Run, ...]

    def write(self, directory: Path) -> Path:
        """DIR/manifest.json, and DIR/configs/ID.json of every run."""
        (directory / "configs").mkdir(parents=True, exist_ok=True)
        for run in self.runs:
            write_whole(config_path(directory, run), json.dumps(run.config, indent=1))
        write_whole(directory / NAME, json.dumps(asdict(self), indent=1))
        return directory / NAME


def read(directory: Path) -> Manifest:
    """ConfigError where the directory is not a study's."""
    path = Path(directory) / NAME
    try:
        values = json.loads(path.read_text())
        return Manifest(**{**values, "runs": tuple(Run(**run) for run in values["runs"])})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(
            "this is not the directory of a study",
            where=str(path),
            why=str(error),
            do="write it first: pretrainx scaling plan --config=FILE --workdir=DIR",
        ) from error


def identity(config: dict[str, Any]) -> str:
    """Eight hexadecimal digits of a resolved config."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:8]


def workdir(directory: Path, run: Run) -> Path:
    """Where a run trains: DIR/runs/ID."""
    return Path(directory) / "runs" / run.id


def config_path(directory: Path, run: Run) -> Path:
    return Path(directory) / "configs" / f"{run.id}.json"
