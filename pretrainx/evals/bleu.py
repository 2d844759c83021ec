"""BLEU (Papineni et al. 2002): how many runs of up to four words written texts share with references."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

LONGEST = 4


def bleu(written: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """0 .. 100 of a corpus: each text against all of its references, words between blanks.

    The geometric mean of the shares of runs of 1 to 4 words that a reference has, each counted as often as in the one that
    has it most, times exp(1 - r / c) where the texts are shorter than the closest references. A share of 0 counts as 1 / 2, 1
    / 4, ... of one run, as sacreBLEU smooths by default ("exp").
    """
    shared, total, length, closest = [0] * LONGEST, [0] * LONGEST, 0, 0
    for text, known in zip(written, references, strict=True):
        words, others = text.split(), [each.split() for each in known]
        length += len(words)
        closest += min((abs(len(other) - len(words)), len(other)) for other in others)[1]
        for size in range(1, LONGEST + 1):
            runs, most = _runs(words, size), Counter()
            for other in others:
                most |= _runs(other, size)
            shared[size - 1] += sum((runs & most).values())
            total[size - 1] += sum(runs.values())
    if not length or not shared[0]:
        return 0.0
    smoothed, logarithms = 1.0, []
    for hits, count in zip(shared, total, strict=True):
        if not count:
            return 0.0
        if not hits:
            smoothed *= 2
        logarithms.append(math.log((hits or 1 / smoothed) / count))
    brevity = min(0.0, 1 - closest / length)
    return 100 * math.exp(brevity + sum(logarithms) / LONGEST)


def _runs(words: list[str], size: int) -> Counter:
    return Counter(tuple(words[first : first + size]) for first in range(len(words) - size + 1))
