"""The figures of one encoder together: named by how they were made, of draws of labels, without labels too."""

import dataclasses

import jax
import numpy as np
import pytest

from evals.small_encoder import IMAGES, digits, rules, simclr
from pretrainx.core import config as strict
from pretrainx.core.errors import ConfigError
from pretrainx.evals import collapse, knn, linear_probe
from pretrainx.evals.features import features, pixels
from pretrainx.evals.representations import RepresentationConfig, Representations

pytestmark = pytest.mark.usefixtures("one_thread")
CONFIG = RepresentationConfig(probe="logistic", labels_per_class=10, train_limit=0, pictures=3)


def measured(config=CONFIG, known=slice(0, 400), asked=slice(400, 500), labelled=True):
    objective, *state = simclr()
    images, labels = digits()
    train, test = ((images[part], labels[part] if labelled else None) for part in (known, asked))
    return Representations(objective, rules(), config, IMAGES, train, {"test": test}, rows=64), state


@pytest.fixture(scope="module")
def rows():
    """(features, labels) of the first 500 pictures."""
    objective, *state = simclr()
    return features(objective, rules(), *state, digits()[0][:500]), digits()[1][:500]


def test_all_of_one_encoder(rows):
    """Three draws of ten labels per class: mean and interval of what each gives; the bank is what was drawn."""
    representations, state = measured(dataclasses.replace(CONFIG, seeds=3))
    found = representations(*state)
    z, labels = rows
    asked = z[400:], labels[400:]
    draws = [linear_probe.draw(labels[:400], 10, seed) for seed in range(3)]
    scores = [knn.accuracy(z[known], labels[known], *asked) for known in draws]
    mean, half = linear_probe.interval(scores)
    name = "knn/k20_t0.07_features_l2_10-per-class/test"
    assert found[name] == pytest.approx(mean) and found[f"{name}/interval"] == pytest.approx(half)
    scores = [
        linear_probe.accuracy("logistic", z[known], labels[known], *asked, 10, n) for n, known in enumerate(draws)
    ]
    name = "probe/logistic_c-by-fifth_cached_features_10-per-class/test"
    assert found[name] == pytest.approx(np.mean(scores), abs=0.011)  # a hundred pictures: one may fall the other way
    rank = found["collapse/rankme_features_n100/test"]
    assert rank == pytest.approx(collapse.rankme(asked[0]), rel=1e-3) and 1 < rank < 16
    assert len(found) == 4 + len(collapse.measures(asked[0]))


def test_raw_pixels_are_named_as_such():
    representations, _ = measured(dataclasses.replace(CONFIG, labels_per_class=0, probe="moco", augment=True))
    found = representations.pixels()
    images, labels = digits()
    bank, queries = pixels(images[:400]), pixels(images[400:500])
    expected = knn.accuracy(bank, labels[:400], queries, labels[400:500])
    assert found["knn/k20_t0.07_pixels_l2_n400/test"] == pytest.approx(expected) and expected > 0.9
    assert "probe/moco_cached_pixels_n400/test" in found and not any(name.startswith("collapse") for name in found)


def test_pixels_of_large_pictures_are_resampled():
    """40 x 40 of blocks of colour become 32 x 32: their means; and the metric says so."""
    images = np.repeat(np.repeat(digits()[0][:40], 5, 1), 5, 2)
    found = pixels(images, rows=16)
    assert found.shape == (40, 32 * 32 * images.shape[-1])
    np.testing.assert_allclose(found.mean(1), images.reshape(40, -1).mean(1) / 255, atol=0.01)
    representations, _ = measured(RepresentationConfig(knn_k=5))
    representations.images = dataclasses.replace(IMAGES, size=40)
    bigger = lambda part: (np.repeat(np.repeat(part[0][:40], 5, 1), 5, 2), part[1][:40])
    representations.train = bigger(representations.train)
    representations.splits = {"test": bigger(representations.splits["test"])}
    assert "knn/k5_t0.07_pixels32_l2_n40/test" in representations.pixels()


def test_crops_are_new_in_every_epoch(monkeypatch):
    config = RepresentationConfig(probe="moco", probe_epochs=2, augment=True, knn_k=0, train_limit=32, limit=10)
    seen = []
    fit = linear_probe.fit

    def watched(protocol, given, *rest):
        seen.extend(given(epoch) for epoch in (0, 0, 1))
        return fit(protocol, given, *rest)

    monkeypatch.setattr(linear_probe, "fit", watched)
    representations, state = measured(config)
    found = representations(*state)
    assert "probe/moco_e2_crops_features_n32/test" in found and not any(name.startswith("knn") for name in found)
    assert seen[0].shape == (32, 16) and np.array_equal(seen[0], seen[1]) and np.abs(seen[0] - seen[2]).max() > 1e-4


def test_limits_are_drawn_from_all_classes():
    """A folder's pictures come class by class."""
    representations, _ = measured(RepresentationConfig(train_limit=50, limit=30))
    images, labels = digits()
    order = np.argsort(labels[:400], kind="stable")
    representations.train = images[:400][order], labels[:400][order]
    rows, known = representations._known(0)
    assert len(rows) == 50 and len(set(known)) == 10
    assert len(representations._limited(representations.train, 30)[0]) == 30
    representations.config = dataclasses.replace(representations.config, labels_per_class=7)
    assert len(representations._known(0)[0]) == 70, "what the name says is what is drawn"
    representations.config = RepresentationConfig(train_limit=50, limit=30)
    assert not np.array_equal(rows, representations._known(1)[0]) and np.array_equal(rows, representations._known(0)[0])


def test_without_labels_and_with_few_rows():
    """Only collapse is measured; no more neighbours than there are pictures, and the name says so."""
    representations, state = measured(labelled=False)
    assert {name.split("/")[0] for name in representations(*state)} == {"collapse"}
    assert representations.neighbours(*state, "test").mode == "RGB"
    representations, state = measured(RepresentationConfig(), known=slice(0, 7))
    assert "knn/k7_t0.07_features_l2_n7/test" in representations(*state)


def test_several_protocols_of_one_encoder():
    """Each by its own name; the figures are those of one alone."""
    known, asked = slice(0, 60), slice(400, 450)
    config = RepresentationConfig(probe=linear_probe.PROTOCOLS, knn_k=0, probe_epochs=2)
    representations, state = measured(config, known, asked)
    found = representations(*state)
    names = [name for name in found if name.startswith("probe/")]
    assert names == [
        f"probe/{how}_features_n60/test" for how in ("ssl_e2_cached", "moco_e2_cached", "logistic_c-by-fifth_cached")
    ]
    alone, state = measured(dataclasses.replace(config, probe="moco"), known, asked)
    assert alone(*state)[names[1]] == found[names[1]]
    assert RepresentationConfig().probes == () and RepresentationConfig(probe="ssl").probes == ("ssl",)
    for wrong in ("logistik", ("ssl", "logistik")):
        with pytest.raises(ConfigError, match="did you mean 'logistic'"):
            strict.parse(RepresentationConfig, {"probe": wrong})
    saved = strict.as_dict(config)
    assert strict.parse(RepresentationConfig, saved) == config


def test_collapse_is_measured_of_four_rows_for_each_dimension(monkeypatch):
    """Where the split has them; the name says of how many."""
    representations, state = measured(RepresentationConfig(knn_k=0), asked=slice(400, 500))
    assert "collapse/rankme_features_n100/test" in representations(*state)
    monkeypatch.setattr("pretrainx.evals.representations.MEASURED", (8, 80))
    found = representations(*state)
    z = features(representations.objective, rules(), *state, digits()[0][400:464])
    assert found["collapse/rankme_features_n64/test"] == pytest.approx(collapse.rankme(z), rel=1e-3)  # 16 dimensions
    monkeypatch.setattr("pretrainx.evals.representations.MEASURED", (8, 48))
    assert "collapse/rankme_features_n48/test" in representations(*state)


def test_stops_when_asked():
    representations, state = measured()
    assert representations(*state, lambda: True) == {}
    asked = iter([False, True])
    assert representations(*state, lambda: next(asked)) == {}
    assert representations.neighbours(*state, "test", lambda: True) is None


def test_the_bank_is_encoded_once(monkeypatch):
    """The sheet of neighbours takes what was just measured with, of the same parameters only, and makes it itself otherwise."""
    seen = []
    watched = lambda *given, **options: seen.append(len(given[4])) or features(*given, **options)
    monkeypatch.setattr("pretrainx.evals.representations.features", watched)
    representations, (params, extras) = measured(RepresentationConfig(train_limit=50, pictures=3, seeds=2))
    sheet = lambda params: np.asarray(representations.neighbours(params, extras, "test"))
    representations(params, extras)
    first = sheet(params)
    assert seen == [100, 50, 50, 3], "the split, a bank for each seed, the pictures of the sheet"
    assert np.array_equal(sheet(params), first) and seen[4:] == [50, 3]
    representations(params, extras)
    del seen[:]
    other = jax.tree.map(lambda leaf: leaf[::-1], params)
    assert not np.array_equal(sheet(other), first) and seen == [50, 3]


def test_the_sheet_of_neighbours():
    """The nearest of a picture that is in the bank is itself; three lines of a query and five neighbours."""
    representations, state = measured(known=slice(0, 100), asked=slice(0, 10))
    sheet = np.asarray(representations.neighbours(*state, "test"))
    side = 72
    query, nearest = sheet[:side, :side], sheet[:side, side + 14 : 2 * side + 14]
    assert np.array_equal(query, nearest) and np.array_equal(query[::9, ::9, :1], digits()[0][0])


def test_in_words():
    described = dataclasses.replace(CONFIG, probe=("moco", "ssl", "moco")).described()
    assert described == [
        "20 nearest neighbours at temperature 0.07 with 10 labels per class",
        "linear probe moco, ssl with 10 labels per class",
        "3 pictures to look at",
    ]
    assert RepresentationConfig(knn_k=0, pictures=0).described() == []
