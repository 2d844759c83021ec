"""Recall and its ties, by hand."""

import numpy as np
import pytest

from pretrainx.evals import retrieval

FOUR = np.arange(4)


def test_ranks_count_what_is_nearer_and_half_of_what_is_as_near():
    text = np.eye(4, dtype=np.float32)
    image = np.array([[1, 0, 0, 0], [0.9, 0.1, 0, 0], [0.5, 0.5, 0.5, 0.5], [0, 0, 0, 1]], np.float32)
    assert retrieval.ranks(image, text, FOUR, FOUR).tolist() == [0.0, 1.0, 1.5, 0.0]


def test_equal_vectors_find_nothing():
    z = np.ones((100, 3), np.float32)
    found = retrieval.recall(z, z, np.arange(100), (1, 5), "held_out")
    assert found["retrieval/image_to_text_recall@5_100-images_100-captions/held_out"] == 0
    assert found["retrieval/chance@5_100-images/held_out"] == 0.05


def test_blocks_of_queries_are_one_matrix(monkeypatch):
    rng = np.random.default_rng(0)
    queries, others = rng.standard_normal((2, 50, 6)).astype(np.float32)
    number = np.arange(50)
    whole = retrieval.ranks(queries, others, number, number)
    monkeypatch.setattr(retrieval, "BLOCK", 7)
    np.testing.assert_array_equal(retrieval.ranks(queries, others, number, number), whole)


def test_recall_goes_both_ways():
    image = np.eye(3, dtype=np.float32)
    text = np.array([[1, 0, 0], [1, 0, 0], [0, 0, 1]], np.float32)  # the second caption is nearest to the first picture
    found = retrieval.recall(image, text, np.arange(3), (1,), "test")
    assert found["retrieval/text_to_image_recall@1_3-images_3-captions/test"] == pytest.approx(2 / 3)
    assert found["retrieval/image_to_text_recall@1_3-images_3-captions/test"] == pytest.approx(
        2 / 3
    )  # the first is torn between two


def test_interval_is_wilsons():
    metric = "x"
    found = retrieval.share(metric, np.array([True] * 8 + [False] * 2))
    assert found["x"] == 0.8 and found["x/interval"] == pytest.approx((0.9433 - 0.4902) / 2, abs=1e-4)
    assert retrieval.share(metric, np.ones(10, bool))["x/interval"] > 0.1  # all hits of ten are no certainty


def test_what_is_no_number_finds_nothing():
    z = np.full((20, 3), np.nan, np.float32)
    found = retrieval.recall(z, z, np.arange(20), (1, 5), "test")
    assert found["retrieval/image_to_text_recall@5_20-images_20-captions/test"] == 0
    one = np.eye(3, dtype=np.float32)
    one[1] = np.nan
    assert retrieval.ranks(one, np.eye(3, dtype=np.float32), np.arange(3), np.arange(3)).tolist() == [0, 2, 0]


def test_every_caption_is_asked_and_a_picture_needs_one():
    image = np.eye(3, dtype=np.float32)
    text = np.array(
        [[1, 0, 0], [0, 1, 0], [0, 1, 0.1], [0, 0.9, 0.5]], np.float32
    )  # the second is of the first picture
    found = retrieval.recall(image, text, np.array([0, 0, 1, 2]), (1,), "test")
    assert found["retrieval/text_to_image_recall@1_3-images_4-captions/test"] == 0.5  # the first and the third
    # The first by its first caption; the second is torn between its own and the first's; the third by its own.
    assert found["retrieval/image_to_text_recall@1_3-images_4-captions/test"] == 1
