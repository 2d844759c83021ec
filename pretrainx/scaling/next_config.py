"""From a fit and a budget to the run that the fit asks for, as `pretrainx train --config=FILE.json` takes it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pretrainx.core import config as strict
from pretrainx.core.errors import ConfigError
from pretrainx.core.whole_file import write_whole
from pretrainx.scaling import inverse, predictions, shapes
from pretrainx.scaling.fits import Fit
from pretrainx.scaling.manifest import Manifest, Run, identity
from pretrainx.scaling.planner import planner_of, short, sizes_for, trained
from pretrainx.scaling.study import StudyConfig

OFF = 0.1  # |ln N| by which the nearest shape may miss the N that was asked for before it is said


@dataclass(frozen=True)
class Next:
    """Attributes:
    run: the run, its facts with the fit's identity in them.
    loss: what it is predicted to reach, with its shape; nan where a frontier does not say.
    notes: what is to be known, a line each.
    """

    run: Run
    loss: float
    notes: tuple[str, ...]


def next_run(
    manifest: Manifest,
    fit: Fit,
    budget: float,
    directory: str | Path,
    parameters: float | None = None,
    noise: float | None = None,
    unique: float | None = None,
    say: Callable[[str], None] = print,
) -> Next:
    """The run of a budget in FLOPs with the study's shape nearest to N* (or to `parameters`), trained for what is left of the
    budget by the model's own FLOPs, with rate, batch and warm-up by the study's rule and the study's data. noise, unique: as in
    predictions.best.

    Raises:
      ConfigError: the fit counts N or FLOPs otherwise than the study does, or no such run can be.
    """
    for name in ("counted", "convention"):
        ours, theirs = manifest.facts[name], getattr(fit, name)
        if ours != theirs:
            raise ConfigError(
                "the fit and the study count differently",
                where=f"{name} of the fit",
                why=f"the fit's is {theirs!r}, the study's {ours!r}",
                do="fit the study's own results: pretrainx scaling fit --workdir=DIR",
            )
    study = strict.parse(StudyConfig, manifest.study, "config.study")
    planner = planner_of(manifest.facts["base"], study, Path(directory), say)
    best = predictions.best(fit, [budget], noise=noise, unique=unique)[0]
    wanted = parameters or best.parameters
    size = shapes.nearest(sizes_for(planner, lambda found: wanted), wanted)
    if size is None:
        raise ConfigError(
            "the study has no shape", where="config.study", why=f"N = {wanted:.4g}", do="widen its shapes"
        )
    off = math.log(size.parameters / wanted)
    seed = (study.seeds or (planner.recipe.seed,))[0]
    name = f"next-c{short(float(f'{budget:.4g}'))}-n{short(size.parameters)}"
    facts = {"budget": budget, "wanted": wanted, "fit": told(fit), "predicted": asdict(best)}
    run = trained(planner, size, budget / size.flops, facts, name, {"seed": seed})
    notes = [f"the nearest shape is {shapes.named(size)}, {math.expm1(off):+.1%} in N"] if abs(off) > OFF else []
    notes += predictions.extrapolated(fit, run.facts["parameters"][study.counted], run.facts["tokens"], budget)
    loss = best.loss
    if fit.form == "frontier":
        if parameters is not None or abs(off) > OFF:
            loss = math.nan
            notes.append(f"N is not the frontier's {best.parameters:.4g}, and a frontier says no loss of other sizes")
    else:
        tokens = run.facts["tokens"]
        loss = inverse.loss_at(fit, size.parameters, tokens, run.facts["unique_tokens"] or unique)
    run = replace(run, facts={**run.facts, "predicted_loss": None if math.isnan(loss) else loss})
    return Next(run, loss, (*notes, *planner.told()))


def corpus_of(manifest: Manifest) -> float | None:
    """How many different units the study's data have; None where that is not known."""
    return next((run.facts["corpus"] for run in manifest.runs if run.facts.get("corpus")), None)


def told(fit: Fit) -> dict[str, Any]:
    """By what a fit is recognised: its data, its method and its values."""
    names = ("method", "form", "source", "digest", "rows", "convention", "counted", "unit")
    values = {name: float(value) for name, value in fit.values.items()}
    return {name: getattr(fit, name) for name in names} | {"values": values, "options": dict(fit.options)}


def write(found: Next, output: str | Path) -> tuple[Path, Path]:
    """FILE.json, the configuration, and FILE.facts.json: shape, counts, what it was predicted from and what it should reach.

    A configuration takes no keys of others, so the facts stand beside it and name it by its hash.
    """
    output = Path(output)
    facts = {"id": found.run.id, "config": identity(found.run.config), **found.run.facts, "notes": found.notes}
    path = write_whole(output, json.dumps(found.run.config, indent=1) + "\n")
    return path, write_whole(output.with_suffix(".facts.json"), json.dumps(facts, indent=1, default=float) + "\n")
