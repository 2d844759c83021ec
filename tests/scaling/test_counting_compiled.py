"""What is counted from the sizes is what programs multiply: as they are traced, and by XLA's own count of the compiled ones."""

import pytest

from pretrainx.runs.operations import matmul_flops
from pretrainx.runs.parts import build
from scaling.small_programs import CONVOLUTIONS, PARADIGMS, ROWS, recipe_of, traced

PLAIN = "one block, autoregressive"
SLOW = [pytest.param(name, marks=[pytest.mark.slow, pytest.mark.rotated]) for name in PARADIGMS if name != PLAIN]


@pytest.mark.parametrize("name", [PLAIN, *SLOW])
def test_flops_are_those_of_an_unrolled_program(name):
    """Value and gradient of the loss of a batch, all of it in sight: no loop, no kernel that hides its products.

    The traced program's products are those of "matmul_full" where there is a causal mask, whose scores it computes and then
    hides. They agree to 0.3%: pictures have no gradient, a batch's vectors meet each other, vocabularies are padded. XLA counts
    what lies between products too, which is about 1% at these widths.

    XLA's figures of convolutional networks leave out what windows read beyond the edge, and are 4 to 15% lower than the
    products of these small ones: they are compared as they are traced.
    """
    objective = build(*recipe_of(name))
    own = objective.flops_per_row()
    program = traced(objective)
    products = matmul_flops(program.jaxpr)
    assert products == pytest.approx(ROWS * objective.flops_by_convention().get("matmul_full", own), rel=3e-3)
    if name not in CONVOLUTIONS:
        assert program.lower().compile().cost_analysis()["flops"] == pytest.approx(ROWS * own, rel=0.02)
