"""Which evaluation a run has: decided by what its data are."""

from __future__ import annotations

from pathlib import Path

from pretrainx.data.prepared import PreparedText
from pretrainx.runs.data import Prepared
from pretrainx.runs.evaluation import Evaluation
from pretrainx.runs.evaluation_of_images import ImageEvaluation
from pretrainx.runs.evaluation_of_text import TextEvaluation, is_causal
from pretrainx.runs.parts import Parts
from pretrainx.runs.recipe import Recipe


def evaluation_of(recipe: Recipe, parts: Parts, data: Prepared, workdir: Path) -> Evaluation:
    kind = TextEvaluation if isinstance(data, PreparedText) else ImageEvaluation
    return kind(recipe, parts, data, workdir)


def evaluated(recipe: Recipe, parts: Parts) -> list[str]:
    """What is evaluated beside the held-out loss, in words."""
    if not parts.of_text:
        return recipe.evals.representations.described()
    causal, samples = is_causal(parts.objective), recipe.evals.samples
    count, unit = (len(samples.prompts), "prompts") if causal else (samples.rows, "rows with what is filled in")
    return ["trigram baseline"] * (recipe.evals.trigram and causal) + [f"{count} {unit}"] * bool(count)
