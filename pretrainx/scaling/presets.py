"""Published laws by name, and what has to be known before they are used.

They are of text, in tokens, with C = 6 N D, at budgets of 1e18 FLOPs and above: lines to compare with, not to plan by.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pretrainx.scaling.fits import Cost
from pretrainx.scaling.laws import FORMS

GOPHER = 5.76e23  # FLOPs, the budget at which Chinchilla's 70B parameters saw 1.4T tokens: 20 for each


@dataclass(frozen=True)
class Preset:
    """A published law. form: a key of laws.FORMS. values: in its names. source: paper and section. note: what to mind."""

    form: str
    values: Mapping[str, float]
    source: str
    note: str

    def optimum(self, budget, cost: Cost = Cost()):
        """N*, D*, L*: float64[...] at a budget in FLOPs; L* is nan where the publication has none."""
        return FORMS[self.form].optimum(self.values, np.asarray(budget, np.float64), cost)

    def ratio(self, budget: float = GOPHER) -> float:
        """Tokens per parameter at a budget, Gopher's by default."""
        parameters, tokens, _ = self.optimum(budget)
        return float(tokens / parameters)

    def told(self) -> str:
        """The note, and the ratio that shows how far a law is from what its authors trained."""
        return f"{self.note} At Gopher's budget it gives {self.ratio():.3g} tokens per parameter; Chinchilla used 20."


def _hoffmann(e: float, a: float, b: float, alpha: float, beta: float) -> dict[str, float]:
    return {"E": e, "A": a, "B": b, "alpha": alpha, "beta": beta}


# Muennighoff et al. 2023: A, B and E are given by their logarithms.
_REPEATED = _hoffmann(np.exp(0.6254804), np.exp(6.255414), np.exp(7.3049974), 0.3526596, 0.3526596)

PRESETS = {
    "hoffmann": Preset(
        "chinchilla",
        _hoffmann(1.69, 406.4, 410.7, 0.34, 0.28),
        "Hoffmann et al. 2022, arXiv 2203.15556, section 3.3 (approach 3)",
        "Rounded as printed. It disagrees with approaches 1 and 2 of the same paper, which gave the 20:1 rule.",
    ),
    "hoffmann_unrounded": Preset(
        "chinchilla",
        _hoffmann(np.exp(0.5267228), np.exp(6.0073404), np.exp(6.0179186), 0.33917084, 0.2849083),
        "Hoffmann et al. 2022, arXiv 2203.15556, the TeX source of approach 3",
        "Rounding alone moves the ratio by a third. It disagrees with approaches 1 and 2 of the same paper.",
    ),
    "besiroglu": Preset(
        "chinchilla",
        _hoffmann(1.8172, 482.01, 2085.43, 0.3478, 0.3658),
        "Besiroglu et al. 2024, arXiv 2404.10102",
        "A new fit of the points in Hoffmann's figure 4: near the 20:1 rule.",
    ),
    "kaplan": Preset(
        "kaplan",
        {"Nc": 6.4e13, "Dc": 1.8e13, "aN": 0.076, "aD": 0.103},
        "Kaplan et al. 2020, arXiv 2001.08361, equation 1.5",
        "N is without embeddings, warm-up was long and the schedule was not matched to runs: it asks for too large models.",
    ),
    "deepseek": Preset(
        "frontier",
        {
            "log_n": np.log(0.1715 / 6),
            "a": 0.5243,
            "log_d": np.log(5.8316),
            "b": 0.4757,
            "E": np.nan,
            "A": np.nan,
            "g": np.nan,
            "C0": 1.0,
        },
        "DeepSeek LLM 2024, arXiv 2401.02954, section 3.2",
        "The size is FLOPs per token, M, without the vocabulary; N here is M / 6. No loss is given.",
    ),
    "muennighoff": Preset(
        "data_constrained",
        {**_REPEATED, "rD": 15.387756, "rN": 5.309743},
        "Muennighoff et al. 2023, arXiv 2305.16264, section 3, and the repository huggingface/datablations",
        "alpha = beta. Without a limit of unique tokens its optimum is that of its Chinchilla law.",
    ),
}

# (a, b) of N* ~ C^a and D* ~ C^b in other domains, collected in the repository Open-Athena/scaling-law-analysis. a + b need not
# be 1, since C is not proportional to N D everywhere.
DOMAINS = {
    "protein causal language model": (0.578, 0.422),
    "protein masked language model": (0.776, 0.230),
    "native multimodal, early fusion": (0.526, 0.473),
    "discrete diffusion language model": (0.589, 0.411),
    "DiT": (0.568, 0.432),
    "xLSTM": (0.547, 0.417),
}
# Of text: Hoffmann et al. 2022, table 2, and Kaplan et al. 2020, section 6.
TEXT = {
    "hoffmann, approach 1": (0.50, 0.50),
    "hoffmann, approach 2": (0.49, 0.51),
    "hoffmann, approach 3": (0.46, 0.54),
    "kaplan": (0.73, 0.27),
}
