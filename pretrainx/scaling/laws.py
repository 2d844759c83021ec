"""Laws by name."""

from __future__ import annotations

from pretrainx.core.errors import ConfigError, nearest
from pretrainx.scaling.constrained import DataConstrained
from pretrainx.scaling.form import ALPHA, BETA, DATA_RETURN, NOTHING, POWER, SIZE_RETURN, A, B, E, Form
from pretrainx.scaling.frontier_form import FRONTIER

_TERMS = (("E", E, "log"), ("A", A, "log"), ("B", B, "log"), ("alpha", ALPHA, "plain"), ("beta", BETA, "plain"))
_SCALES = (("Nc", A, "scale"), ("Dc", B, "scale"))

# E + A / N^alpha + B / D^beta (Hoffmann et al. 2022, equation 2).
CHINCHILLA = Form("chinchilla", _TERMS)
# The same in Kaplan's scales: E + (Nc / N)^aN + (Dc / D)^aD.
ADDITIVE = Form("additive", (("E", E, "log"), *_SCALES, ("aN", ALPHA, "plain"), ("aD", BETA, "plain")))
# [(Nc / N)^(aN / aD) + Dc / D]^aD (Kaplan et al. 2020, equation 1.5).
KAPLAN = Form(
    "kaplan", (*_SCALES, ("aN", ALPHA, "ratio"), ("aD", POWER, "plain")), constants=((E, NOTHING), (BETA, 1.0))
)
# E + a N^-eta + b D^-eta, which is E + (a + b M^-eta) N^-eta with M = D / N (Gadre et al. 2024, equation 4).
SHARED = Form("shared", (("E", E, "log"), ("a", A, "log"), ("b", B, "log"), ("eta", ALPHA, "plain")), tied=True)
# E + A / N'^alpha + B / D'^beta with the N' and D' that repeated data are worth (Muennighoff et al. 2023, section 3).
DATA_CONSTRAINED = DataConstrained(
    "data_constrained", (*_TERMS, ("rD", DATA_RETURN, "log"), ("rN", SIZE_RETURN, "log"))
)

PARAMETRIC = {form.name: form for form in (CHINCHILLA, ADDITIVE, KAPLAN, SHARED, DATA_CONSTRAINED)}
# All laws that a fit may be of: a frontier has an optimum and no loss elsewhere.
FORMS = {**PARAMETRIC, "frontier": FRONTIER}


def form(name: str) -> Form:
    """A law of N and D; ConfigError for a name that is none."""
    if name not in PARAMETRIC:
        raise ConfigError(
            f"no law of N and D is called {name!r}",
            where="form",
            why=nearest(name, PARAMETRIC),
            do=f"one of {', '.join(PARAMETRIC)}",
        )
    return PARAMETRIC[name]
