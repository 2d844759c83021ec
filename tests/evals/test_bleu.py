"""BLEU by hand, and against what sacreBLEU gives."""

import math
import random

import pytest

from pretrainx.evals.bleu import bleu


def test_the_same_text_is_a_hundred():
    assert bleu(["a large red star"], [["a large red star", "a star"]]) == pytest.approx(100)


def test_by_hand():
    """Shares 5/6, 3/5, 1/4 and none of 3 (counted as half a run); as long as the reference."""
    found = bleu(["the cat sat on a mat"], [["the cat lay on a mat"]])
    assert found == pytest.approx(100 * (5 / 6 * 3 / 5 * 1 / 4 * (1 / 2) / 3) ** 0.25)


def test_words_count_as_often_as_a_reference_has_them():
    assert bleu(["the the the the"], [["the cat"]]) == pytest.approx(
        100 * math.exp(0) * (1 / 4 * (1 / 2) / 3 * (1 / 4) / 2 * (1 / 8) / 1) ** 0.25
    )


def test_short_texts_are_punished():
    assert bleu(["a b c d"], [["a b c d e f g h"]]) == pytest.approx(100 * math.exp(1 - 8 / 4))


def test_nothing_in_common():
    assert bleu(["a b"], [["c d"]]) == 0
    assert bleu([""], [["c d"]]) == 0


WORDS = "a the large small red blue star ring cross on green ground with of".split()
# What sacreBLEU 2.6.0 gives of these corpora: BLEU(tokenize="none").corpus_score(...).score.
SACREBLEU = {
    (0, 40, 3): 39.62117301360405,
    (1, 5, 1): 26.237521735179484,
    (2, 3, 1): 0.0,
    (3, 200, 6): 39.89878520934348,
}


@pytest.mark.parametrize(("seed", "rows", "shortest"), SACREBLEU)
def test_corpora_score_as_sacrebleu_scores_them(seed, rows, shortest):
    draw = random.Random(seed)
    text = lambda: " ".join(draw.choice(WORDS) for _ in range(draw.randint(shortest, 12)))
    written = [text() for _ in range(rows)]
    references = [[text() for _ in range(3)] for _ in range(rows)]
    for row in range(0, rows, 3):  # some are nearly right
        references[row][1] = " ".join([*written[row].split()[1:], "star"])
    assert bleu(written, references) == pytest.approx(SACREBLEU[seed, rows, shortest], rel=1e-12)
