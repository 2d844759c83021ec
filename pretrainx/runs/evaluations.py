"""Which evaluation a run has: decided by what its data are."""

from __future__ import annotations

from pathlib import Path

from pretrainx.data.pairs import PairConfig
from pretrainx.data.prepared import PreparedText
from pretrainx.data.prepared_labelled import PreparedLabelled
from pretrainx.data.prepared_pairs import PreparedPairs
from pretrainx.runs.data import Prepared
from pretrainx.runs.evaluation import Evaluation
from pretrainx.runs.evaluation_of_images import ImageEvaluation
from pretrainx.runs.evaluation_of_labelled import LabelledEvaluation
from pretrainx.runs.evaluation_of_pairs import PairEvaluation
from pretrainx.runs.evaluation_of_text import TextEvaluation, is_causal
from pretrainx.runs.parts import Parts
from pretrainx.runs.recipe import Recipe


def evaluation_of(recipe: Recipe, parts: Parts, data: Prepared, workdir: Path) -> Evaluation:
    kinds = ((PreparedText, TextEvaluation), (PreparedPairs, PairEvaluation), (PreparedLabelled, LabelledEvaluation))
    kind = next((kind for prepared, kind in kinds if isinstance(data, prepared)), ImageEvaluation)
    return kind(recipe, parts, data, workdir)


def evaluated(recipe: Recipe, parts: Parts) -> list[str]:
    """What is evaluated beside the held-out loss, in words."""
    if parts.unit == "row":
        return ["the test split at the end"] * bool(recipe.data.test_paths)
    if not parts.of_text:
        of_pairs = isinstance(recipe.data, PairConfig)
        further = recipe.evals.image_text.described(parts.objective.decodes) if of_pairs else []
        return recipe.evals.representations.described() + further
    causal, samples = is_causal(parts.objective), recipe.evals.samples
    count, unit = (len(samples.prompts), "prompts") if causal else (samples.rows, "rows with what is filled in")
    return ["trigram baseline"] * (recipe.evals.trigram and causal) + [f"{count} {unit}"] * bool(count)
