"""How a run of a study stands, read from its files: nothing else needs to be alive."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pretrainx.core import json_lines
from pretrainx.core.whole_file import write_whole
from pretrainx.scaling import manifest

WAITING, RUNNING, STOPPED, DONE, DIVERGED, FAILED = "waiting", "running", "stopped", "done", "diverged", "failed"
FINAL = (DONE, DIVERGED)  # never started again
HELD_OUT = "eval/held_out/loss"
LATE = 5  # logged losses at the end of a run, whose median is compared with the first
# Objectives whose loss is one function from the first step to the last. That of others may rise in a sound run: their targets
# are a network that learns, their queue fills, or a term of theirs grows.
FIXED = (
    "autoregressive", "masked_lm", "span_corruption", "denoising", "prefix_lm", "mixture_of_denoisers", "text_to_text",
    "sequence_classification", "sequence_regression", "token_classification", "question_answering", "classification",
    "mae", "beit", "simclr", "clip", "siglip", "coca",
)  # fmt: skip
SLACK = 0.02  # a rate near zero leaves the loss where it was, up to the noise of a batch: that did not diverge


@dataclass(frozen=True)
class Standing:
    """Attributes:
    state: waiting (never started), running, stopped (begun, and goes on from its checkpoint), done, diverged or failed.
    step, steps: logged so far, and planned. loss: the newest training loss; nan where there is none.
    why: of a run that diverged or failed.
    """

    state: str
    step: int = 0
    steps: int = 0
    loss: float = math.nan
    why: str = ""


@dataclass(frozen=True)
class Verdict:
    """What the queue found when a run's process ended, in DIR/runs/ID.json.

    Attributes:
      status: done, diverged or failed. code: the exit code, negative for a signal. attempts: how often it was started.
      why: in words. version: of the program that ran it. time: when, in seconds since 1970.
    """

    status: str
    code: int
    attempts: int
    why: str
    version: str
    time: float

    def write(self, directory: Path, run: manifest.Run) -> None:
        write_whole(verdict_path(directory, run), json.dumps(asdict(self), indent=1))


def verdict_path(directory: Path, run: manifest.Run) -> Path:
    return manifest.workdir(directory, run).with_name(f"{run.id}.json")


def verdict(directory: Path, run: manifest.Run) -> Verdict | None:
    """What was found of a run, or None where its process has not ended under the queue's eyes."""
    try:
        return Verdict(**json.loads(verdict_path(directory, run).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def standing(directory: Path, run: manifest.Run, failed_since: float = 0.0) -> Standing:
    """How a run stands that no process of ours trains: a failure that was found before `failed_since` does not count."""
    workdir, steps = manifest.workdir(directory, run), planned_steps(run)
    records = json_lines.read_metrics(workdir / "metrics.jsonl")
    events = json_lines.read(workdir / "events.jsonl")
    losses = [record["train/loss"] for record in records if "train/loss" in record]
    step, loss = (records[-1]["step"] if records else 0), (losses[-1] if losses else math.nan)
    if is_done(events, steps):
        why = divergence(losses, run.config, [record[HELD_OUT] for record in records if HELD_OUT in record])
        return Standing(DIVERGED if why else DONE, step, steps, loss, why)
    found = verdict(directory, run)
    if found and (found.status == DIVERGED or found.status == FAILED and found.time >= failed_since):
        return Standing(found.status, step, steps, loss, found.why)
    if why := given_up(events, run.config):
        return Standing(DIVERGED, step, steps, loss, why)
    return Standing(STOPPED if events else WAITING, step, steps, loss)


def planned_steps(run: manifest.Run) -> int:
    return int(run.config["train"]["steps"])


def is_done(events: Sequence[dict[str, Any]], steps: int) -> bool:
    """Whether the last thing that a run noted is that it is done, with all the steps that are planned."""
    return bool(events) and events[-1].get("kind") == "done" and events[-1].get("step", 0) >= steps


def given_up(events: Sequence[dict[str, Any]], config: dict[str, Any]) -> str:
    """Why a run ended itself, where it did: it takes no step any more, or its embeddings collapsed; else ""."""
    ended = [event for event in events if event.get("kind") != "seconds"]
    last = ended[-1] if ended else {}
    if last.get("kind") == "skipped" and last["in_a_row"] >= config.get("guard", {}).get("patience", math.inf):
        return f"{last['in_a_row']} steps in a row could not be taken, up to step {last['step']}"
    if last.get("kind") == "collapse" and config.get("alarm", {}).get("stop"):
        return f"the embeddings collapsed by step {last['step']}"
    return ""


def divergence(losses: Sequence[float], config: Mapping[str, Any], held_out: Sequence[float] = ()) -> str:
    """Why the logged training losses of a run that ended show that it diverged; "" where they do not.

    A rise counts where the objective's loss is FIXED, unless the run's own held-out losses fell meanwhile.
    """
    if not losses:
        return ""
    late = statistics.median(losses[-LATE:])
    if not math.isfinite(losses[-1]) or not math.isfinite(late):
        return f"the training loss ends at {losses[-1]:g}"
    fell = len(held_out) > 1 and not risen(held_out[0], held_out[-1])
    if len(losses) > LATE and risen(losses[0], late) and config["objective"]["name"] in FIXED and not fell:
        return f"the training loss ends at {late:.4g}, above {losses[0]:.4g} at its beginning"
    return ""


def risen(first: float, last: float) -> bool:
    """Whether a loss rose by more than noise does; one that is no number did."""
    return not last <= first + SLACK * abs(first)
