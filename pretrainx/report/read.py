"""What a report knows of a run: the files of its workdir, of a finished run or of one that is still going."""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from pretrainx.core.errors import DataError
from pretrainx.core.json_lines import read, read_metrics

_SAMPLE_CHARACTERS = 20_000
_PICTURE_BYTES = 4_000_000  # larger ones would make a page that no mail takes


@dataclass(frozen=True)
class Sample:
    """One text of `samples/`; its step is the first number in the file's name, -1 where there is none."""

    name: str
    step: int
    text: str


@dataclass(frozen=True)
class Picture:
    """One PNG of `samples/`, the newest of its name.

    Attributes:
      name: the file's, without its step; step: -1 where it has none.
      caption: the text that the file itself has, "" where it has none.
      width, height: pixels. content: the file as it is.
    """

    name: str
    step: int
    caption: str
    width: int
    height: int
    content: bytes


@dataclass(frozen=True)
class Run:
    """One workdir.

    Attributes:
      name: the directory's name, or what tells it from another run of that name.
      config: the resolved config.
      metrics: one record per step, in order.
      events, samples: in order; either may be empty.
      evals: what `pretrainx eval` found, one record per step, in order.
      lines: every record of metrics.jsonl in file order, those of steps that ran twice included.
      pictures: of each name the newest; left_out: names of files that are too large for a page.
    """

    name: str
    config: dict[str, Any]
    metrics: list[dict[str, Any]]
    events: list[dict[str, Any]]
    samples: list[Sample]
    evals: list[dict[str, Any]] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    lines: list[dict[str, Any]] = field(default_factory=list)

    def series(self, key: str) -> tuple[list[int], list[float]]:
        """(steps, values) where the metric was recorded and is finite."""
        points = [(record["step"], record.get(key)) for record in self.metrics]
        points = [(step, value) for step, value in points if _is_finite(value)]
        return [step for step, _ in points], [float(value) for _, value in points]

    def last(self, key: str) -> float | None:
        """The newest finite value of a metric."""
        return next((record[key] for record in reversed(self.metrics) if _is_finite(record.get(key))), None)

    def fact(self, key: str) -> Any:
        """The newest value of a fact among the events, else of the config's top level, else None."""
        return next((event[key] for event in reversed(self.events) if key in event), self.config.get(key))


def read_runs(workdirs: Sequence[str | Path]) -> list[Run]:
    """Every workdir as a Run, with names that differ.

    Raises:
      DataError: a workdir, its config.json or its metrics.jsonl is missing, or holds nothing readable.
    """
    paths = [Path(workdir) for workdir in workdirs]
    names = [path.resolve().name for path in paths]
    if len(set(names)) < len(names):
        names = [str(path) for path in paths]
    return [read_run(path, name) for path, name in zip(paths, names, strict=True)]


def read_run(workdir: str | Path, name: str = "") -> Run:
    """One workdir; see `read_runs`."""
    path = Path(workdir)
    if not path.is_dir():
        raise DataError(f"there is no run {path}", where=str(path), why="no such directory", do=_command("FILE", path))
    config = _config(path)
    metrics_path = path / "metrics.jsonl"
    lines, metrics = read(metrics_path), read_metrics(metrics_path)
    if not metrics:
        state = "has no whole record yet" if metrics_path.exists() else "is missing"
        raise DataError(
            "the run has no metrics to report",
            where=str(metrics_path),
            why=f"the file {state}",
            do=f"let it reach its first logged step: {_command(path / 'config.json', path)}",
        )
    name = name or path.resolve().name
    events, evals = read(path / "events.jsonl"), read_metrics(path / "evals.jsonl")
    samples = path / "samples"
    return Run(name, config, metrics, events, _samples(samples), evals, *_pictures(samples), lines)


def _command(config: str | Path, workdir: Path) -> str:
    return f"pretrainx train --config={config} --workdir={workdir}"


RESTORE = "put the file back, or train in another workdir"


def _config(workdir: Path) -> dict[str, Any]:
    path = workdir / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(
            f"{workdir} is not a run", where=str(path), why="the file is missing", do=_command("FILE", workdir)
        ) from error
    except (OSError, ValueError) as error:
        raise DataError("the run's config cannot be read", where=str(path), why=str(error), do=RESTORE) from error
    if not isinstance(config, dict):
        why = "the file holds no JSON object"
        raise DataError("the run's config cannot be read", where=str(path), why=why, do=RESTORE)
    return config


def _samples(directory: Path) -> list[Sample]:
    samples = []
    for path in directory.glob("*.txt"):
        number = re.search(r"\d+", path.stem)
        with path.open(encoding="utf-8", errors="replace") as file:
            text = file.read(_SAMPLE_CHARACTERS + 1)
        if len(text) > _SAMPLE_CHARACTERS:
            text = text[:_SAMPLE_CHARACTERS] + "\n[cut here]"
        samples.append(Sample(path.stem, int(number[0]) if number else -1, text))
    return sorted(samples, key=lambda sample: (sample.step, sample.name))


def _pictures(directory: Path) -> tuple[list[Picture], list[str]]:
    """(the newest of each name, by name; the files among them that are too large). What is no picture, or half written, is in
    neither."""
    newest: dict[str, tuple[int, Path]] = {}
    for path in sorted(directory.glob("*.png")):
        parts = re.fullmatch(r"(?:(\d+)[-_]?)?(.*)", path.stem)
        step, name = int(parts[1]) if parts[1] else -1, parts[2]
        if name not in newest or step > newest[name][0]:
            newest[name] = step, path
    found, large = [], []
    for name, (step, path) in sorted(newest.items()):
        try:
            if path.stat().st_size > _PICTURE_BYTES:
                large.append(path.name)
                continue
            with warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                with Image.open(path, formats=("PNG",)) as image:
                    (width, height), caption = image.size, str(image.info.get("Caption", ""))
                    image.verify()
            found.append(Picture(name, step, caption, width, height, path.read_bytes()))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning):
            continue  # Pillow says SyntaxError of a broken PNG
    return found, large


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
