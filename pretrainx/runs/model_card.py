"""README.md of an exported model, of text and of pictures."""

from __future__ import annotations

from pretrainx import __version__
from pretrainx.core.json_lines import read_metrics
from pretrainx.runs.load import Run


def card_of(run: Run, task: str, described: list[str], seen: str, start: str, data: str) -> str:
    """It claims what the run's files say, and leaves the licence to its owner."""
    lines = [
        "---",
        "library_name: transformers",
        f"pipeline_tag: {task}",
        "---",
        "",
        f"# {run.workdir.name}",
        "",
        *described,
        f"- trained with pretrainx {__version__}, step {run.step} of {run.config.train.steps}, {seen}"
        if run.step
        else f"- written by pretrainx {__version__}, not trained further",
        f"- started from: {start or 'random initialisation'}",
        *([f"- data: {data}"] if run.step else []),
        *measured(run),
        "",
        "Licence: not stated. Whoever publishes this names one that fits the data and the model it started from.",
    ]
    return "\n".join(lines) + "\n"


def measured(run: Run) -> list[str]:
    """The lines of a card on what was evaluated at the run's step."""
    records = [record for record in read_metrics(run.workdir / "metrics.jsonl") if record.get("step") == run.step]
    values = {name: value for record in records for name, value in record.items() if name.startswith("eval/")}
    numbers = {name: value for name, value in values.items() if isinstance(value, (int, float))}
    return [f"- {name}: {value:.4f}" for name, value in sorted(numbers.items())]
