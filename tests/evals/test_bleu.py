"""BLEU by hand; tests/parity compares it with sacreBLEU."""

import math

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
