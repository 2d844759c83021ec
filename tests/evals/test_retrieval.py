"""Recall and its ties, by hand."""

import numpy as np
import pytest

from pretrainx.evals import retrieval


def test_ranks_count_what_is_nearer_and_half_of_what_is_as_near():
    text = np.eye(4, dtype=np.float32)
    image = np.array([[1, 0, 0, 0], [0.9, 0.1, 0, 0], [0.5, 0.5, 0.5, 0.5], [0, 0, 0, 1]], np.float32)
    assert retrieval.ranks(image, text).tolist() == [0.0, 1.0, 1.5, 0.0]


def test_equal_vectors_find_nothing():
    z = np.ones((100, 3), np.float32)
    found = retrieval.recall(z, z, (1, 5), "held_out")
    assert found["retrieval/image_to_text_recall@5_n100/held_out"] == 0
    assert found["retrieval/chance@5_n100/held_out"] == 0.05


def test_blocks_of_queries_are_one_matrix(monkeypatch):
    rng = np.random.default_rng(0)
    queries, others = rng.standard_normal((2, 50, 6)).astype(np.float32)
    whole = retrieval.ranks(queries, others)
    monkeypatch.setattr(retrieval, "BLOCK", 7)
    np.testing.assert_array_equal(retrieval.ranks(queries, others), whole)


def test_recall_goes_both_ways():
    image = np.eye(3, dtype=np.float32)
    text = np.array([[1, 0, 0], [1, 0, 0], [0, 0, 1]], np.float32)  # the second caption is nearest to the first picture
    found = retrieval.recall(image, text, (1,), "test")
    assert found["retrieval/text_to_image_recall@1_n3/test"] == pytest.approx(2 / 3)
    assert found["retrieval/image_to_text_recall@1_n3/test"] == pytest.approx(2 / 3)  # the first is torn between two


def test_interval_is_wilsons():
    metric = "x"
    found = retrieval.share(metric, np.array([True] * 8 + [False] * 2))
    assert found["x"] == 0.8 and found["x/interval"] == pytest.approx((0.9433 - 0.4902) / 2, abs=1e-4)
    assert retrieval.share(metric, np.ones(10, bool))["x/interval"] > 0.1  # all hits of ten are no certainty
