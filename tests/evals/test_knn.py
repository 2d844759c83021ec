"""Weighted nearest neighbours against scikit-learn and by hand."""

import numpy as np
import pytest

from evals.small_encoder import digits
from pretrainx.evals import knn
from pretrainx.evals.features import pixels

reference = pytest.importorskip(
    "sklearn.neighbors", reason="scikit-learn is compared with: pip install 'pretrainx[test]'"
)


@pytest.fixture(scope="module")
def rows():
    images, labels = digits()
    return pixels(images[:300]) + 0.01, labels[:300], pixels(images[300:450]), labels[300:450]


@pytest.mark.parametrize("k,temperature", [(1, 0.07), (20, 0.07), (50, 0.5)])
def test_equal_to_scikit_learn(rows, k, temperature):
    """Its own search and vote, with weights that are told: exp(cosine / temperature)."""
    bank, labels, queries, truth = rows
    weigh = lambda distance: np.exp((1 - distance) / temperature)
    other = reference.KNeighborsClassifier(k, weights=weigh, metric="cosine", algorithm="brute").fit(bank, labels)
    assert np.array_equal(knn.predict(bank, labels, queries, k, temperature), other.predict(queries))
    found = knn.accuracy(bank, labels, queries, truth, k, temperature)
    assert found == pytest.approx(other.score(queries, truth)) and 0.8 < found < 1


def test_chunks_give_the_same_neighbours(rows, monkeypatch):
    bank, _, queries, _ = rows
    there = reference.NearestNeighbors(n_neighbors=5, metric="cosine").fit(bank).kneighbors(queries)
    for held in (knn.COSINES, 7 * len(bank)):
        monkeypatch.setattr(knn, "COSINES", held)
        indices, cosines = knn.nearest(bank, queries, 5)
        assert np.array_equal(indices, there[1]) and indices.shape == (150, 5)
        np.testing.assert_allclose(cosines, 1 - there[0], atol=1e-5)


def test_the_temperature_weighs_near_against_many():
    """One very near neighbour of class 1, two farther ones of class 0; lengths do not matter, nor does a tiny temperature."""
    angle = lambda degrees, length: length * np.array([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))])
    bank = np.stack([angle(50, 1), angle(-50, 90), angle(2, 0.01), angle(180, 5)])
    labels, query = np.array([0, 0, 1, 1]), angle(0, 3)[None]
    predict = lambda temperature: int(knn.predict(bank, labels, query, 3, temperature)[0])
    assert (predict(0.001), predict(0.1), predict(5.0)) == (1, 1, 0)
    # 2 exp(cos 50 / T) = exp(cos 2 / T) at this temperature.
    even = (np.cos(np.radians(2)) - np.cos(np.radians(50))) / np.log(2)
    assert (predict(even * 0.99), predict(even * 1.01)) == (1, 0)


def test_names_and_empty_rows():
    assert knn.name(20, 0.07, "features") == "k20_t0.07_features_l2"
    assert knn.name(200, 0.1, "hidden") == "k200_t0.1_hidden_l2"
    assert np.array_equal(knn.unit_rows(np.array([[0, 0], [3, 4]])), np.array([[0, 0], [0.6, 0.8]], np.float32))
