"""Parameters of the heads that self-supervised paradigms put on a network, counted from the sizes."""

from __future__ import annotations

from pretrainx.models.dino_head import DinoHead
from pretrainx.models.heads import MlpHead

_OF_A_NORM = {"none": 0, "plain": 0, "scale": 1, "full": 2}


def head_weights(head: MlpHead | DinoHead | None, inputs: int) -> int:
    """Weights that multiply a vector of so many numbers; no head has none."""
    if head is None:
        return 0
    widths = (inputs, *head.widths)
    dense = sum(before * after for before, after in zip(widths, widths[1:], strict=False))
    return dense + (head.widths[-1] * head.prototypes if isinstance(head, DinoHead) else 0)


def head_parameters(head: MlpHead | DinoHead | None, inputs: int) -> int:
    """Those and biases and norms; running statistics are none."""
    if head is None:
        return 0
    *inner, last = head.widths
    of_dino = isinstance(head, DinoHead)
    biased = head.norm == "none" if of_dino else head.bias
    biases = sum(head.widths) if biased else 0
    biases += last if not of_dino and head.last_bias and not biased else 0
    norms = sum(inner) * _OF_A_NORM["full" if head.norm == "batch" else "none"]
    norms += 0 if of_dino else last * _OF_A_NORM[head.last_norm]
    return head_weights(head, inputs) + biases + norms
