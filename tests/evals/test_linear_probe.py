"""Linear read-outs: the logistic one against scikit-learn, the two trained ones against their formulas."""

import dataclasses

import numpy as np
import pytest

from evals.small_encoder import digits
from pretrainx.evals import linear_probe
from pretrainx.evals.features import pixels

reference = pytest.importorskip(
    "sklearn.linear_model", reason="scikit-learn is compared with: pip install 'pretrainx[test]'"
)
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def rows():
    images, labels = digits()
    pick = lambda rows: pixels(images[rows][:, :, ::2])  # every second column: half the work
    return pick(slice(0, 300)), labels[:300], pick(slice(300, 600)), labels[300:600]


@pytest.mark.parametrize("strength", [0.01, 1.0])
def test_logistic_equals_scikit_learn(rows, strength):
    x, labels = rows[0].astype(np.float64), rows[1]
    ours = linear_probe.logistic(x, labels, 10, strength)
    other = reference.LogisticRegression(C=strength, tol=1e-8, max_iter=5000).fit(x, labels)
    np.testing.assert_allclose(ours[:-1].T, other.coef_, atol=2e-3 * np.abs(other.coef_).max())
    shift = ours[-1] - other.intercept_
    np.testing.assert_allclose(shift - shift.mean(), 0, atol=5e-3)  # equal logits in all classes change nothing
    assert ours.size == (32 + 1) * 10


def test_the_strength_is_chosen_on_rows_that_were_not_fitted(rows, monkeypatch):
    """Each C is fitted to four fifths; what is returned is the fit of all rows at the best C of the fifth, in units of the
    features as they came."""
    x, labels, test, truth = rows
    seen = []
    fit = linear_probe.logistic
    monkeypatch.setattr(
        linear_probe, "logistic", lambda x, y, *rest: seen.append((len(y), rest[1])) or fit(x, y, *rest)
    )
    kernel, bias, chosen = linear_probe.fit_logistic(1000 * x + 5, labels, 10, seed=1)
    fifth = linear_probe.draw(labels, 0.2, 1)
    assert len(fifth) == pytest.approx(60, abs=5) and {count for count, _ in seen[:-1]} == {300 - len(fifth)}
    assert seen[-1] == (300, chosen) and [c for _, c in seen[:-1]] == list(linear_probe.STRENGTHS[: len(seen) - 1])
    mean = x.mean(0)
    scale = np.sqrt(((x - mean) ** 2).mean())
    rest = np.setdiff1d(np.arange(300), fifth)
    score = lambda c: (
        reference.LogisticRegression(C=c, tol=1e-6, max_iter=5000)
        .fit((x[rest] - mean) / scale, labels[rest])
        .predict_log_proba((x[fifth] - mean) / scale)[np.arange(len(fifth)), labels[fifth]]
        .mean()
    )
    assert score(chosen) >= max(map(score, (1e-4, 0.01 * chosen, 0.1 * chosen, 10 * chosen))) - 1e-3
    whole = reference.LogisticRegression(C=chosen, tol=1e-8, max_iter=5000).fit((x - mean) / scale, labels)
    agreed = ((1000 * test + 5) @ kernel + bias).argmax(1) == whole.predict((test - mean) / scale)
    assert agreed.mean() > 0.99
    assert linear_probe.accuracy("logistic", 1000 * x + 5, labels, 1000 * test + 5, truth, 10, 1) > 0.8


def test_rates_of_the_protocols():
    ssl, moco = linear_probe.protocol("ssl", 60_000), linear_probe.protocol("moco", 60_000)
    assert (ssl.batch, ssl.epochs, ssl.normalised, ssl.lars) == (1024, 90, True, True)
    rates = [float(ssl.rate_at(epoch)) for epoch in (0, 5, 10, 50, 90)]
    assert rates == pytest.approx([0, 0.2, 0.4, 0.2, 0], abs=1e-6)
    assert (moco.batch, moco.epochs, moco.normalised, moco.lars) == (256, 100, False, False)
    assert [float(moco.rate_at(epoch)) for epoch in (0, 59.9, 60, 80)] == pytest.approx([30, 30, 3, 0.3])
    assert linear_probe.protocol("ssl", 100).rate == pytest.approx(0.1 * 100 / 256)
    longer = linear_probe.protocol("ssl", 100, epochs=900)
    assert (longer.epochs, longer.warmup) == (900, 100)


def stepped(protocol, x, labels, kernel):
    """The whole training by hand where one batch is all rows: its order does not matter."""
    bias, velocity, slow = np.zeros(10), np.zeros_like(kernel), np.zeros(10)
    mean, variance = np.zeros(x.shape[1]), np.ones(x.shape[1])
    seen = x
    if protocol.normalised:
        seen = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-6)
    for epoch in range(protocol.epochs):
        logits = seen @ kernel + bias
        wrong = np.exp(logits - logits.max(1, keepdims=True))
        wrong /= wrong.sum(1, keepdims=True)
        wrong[np.arange(len(x)), labels] -= 1
        gradient = seen.T @ wrong / len(x)
        rate = float(protocol.rate_at(epoch))
        # LARS has the rate inside the momentum, SGD as torch knows it outside.
        trust = 1e-3 * np.linalg.norm(kernel) / np.linalg.norm(gradient)
        inside, outside = (rate, 1) if protocol.lars else (1, rate)
        velocity = 0.9 * velocity + (trust if protocol.lars else 1) * inside * gradient
        slow = 0.9 * slow + inside * wrong.mean(0)
        kernel, bias = kernel - outside * velocity, bias - outside * slow
        mean = 0.9 * mean + 0.1 * x.mean(0)
        variance = 0.9 * variance + 0.1 * x.var(0, ddof=1)
    if not protocol.normalised:
        return kernel, bias
    kernel = kernel / np.sqrt(variance + 1e-6)[:, None]
    return kernel, bias - mean @ kernel


@pytest.mark.parametrize("name", ["ssl", "moco"])
def test_trained_as_the_protocol_says(rows, name):
    """LARS or momentum, the rate of each step, BatchNorm's running statistics: equal to a loop by hand in float64.

    MoCo's rate is taken down for it: at 30 the iteration amplifies rounding.
    """
    x, labels = np.asarray(rows[0][:120] + 0.1, np.float64), rows[1][:120]
    protocol = linear_probe.protocol(name, 120, epochs=20)
    if name == "moco":
        protocol = dataclasses.replace(protocol, rate=1.0)
    still = linear_probe.Protocol(rate=0.0, batch=120, epochs=1)  # what comes back is what training begins with
    first, nothing = linear_probe.fit(still, x.astype(np.float32), labels, 10)
    assert first.std() == pytest.approx(0.01, rel=0.2) and not nothing.any()
    kernel, bias = linear_probe.fit(protocol, x.astype(np.float32), labels, 10)
    expected, offset = stepped(protocol, x, labels, first.astype(np.float64))
    np.testing.assert_allclose(kernel, expected, atol=2e-4 * np.abs(expected).max())
    np.testing.assert_allclose(bias, offset, atol=2e-4 * max(np.abs(offset).max(), 1))


def test_batches_cover_an_epoch_in_a_new_order(rows):
    """300 rows in batches of 256: one batch an epoch, of other rows each time, so that all are learnt."""
    x, labels = rows[:2]
    score = lambda seed: linear_probe.accuracy("moco", x, labels, x, labels, 10, seed)
    assert score(0) > 0.97 and score(0) == score(0)
    kernels = [linear_probe.fit(linear_probe.protocol("moco", 300, 5), x, labels, 10, seed)[0] for seed in (0, 0, 1)]
    assert np.array_equal(kernels[0], kernels[1]) and np.abs(kernels[0] - kernels[2]).max() > 1e-3


def test_ssl_learns_with_enough_epochs(rows):
    """Its published epochs are those of a million pictures; with few pictures the kernel hardly grows."""
    score = lambda epochs: linear_probe.accuracy("ssl", *rows, 10, 0, epochs)
    assert score(0) < 0.6 and score(1500) > score(0) + 0.2


def test_features_of_every_epoch_are_asked_for(rows):
    asked = []

    def changed(epoch):
        asked.append(epoch)
        return rows[0] if epoch == 0 else np.zeros_like(rows[0])

    protocol = linear_probe.protocol("moco", 300, 5)
    kernel, bias = linear_probe.fit(protocol, changed, rows[1], 10)
    assert asked == [0, 1, 2, 3, 4]
    cached, _ = linear_probe.fit(protocol, rows[0], rows[1], 10)
    assert np.abs(kernel - cached).max() > 1e-3


def test_draws_of_labels():
    labels = np.array([0] * 5 + [1] * 50 + [2] * 2 + [3])
    few = linear_probe.draw(labels, 3, 0)
    assert np.bincount(labels[few]).tolist() == [3, 3, 2, 1] and len(set(few)) == len(few)
    assert np.array_equal(few, linear_probe.draw(labels, 3, 0)) and np.array_equal(few, np.sort(few))
    assert not np.array_equal(few, linear_probe.draw(labels, 3, 1))
    assert np.bincount(labels[linear_probe.draw(labels, 0.2, 0)], minlength=4).tolist() == [1, 10, 1, 0]
    assert len(linear_probe.draw(labels, 0, 0)) == len(labels)


def test_intervals():
    """Student's t with two degrees of freedom: 4.3027 standard errors."""
    mean, half = linear_probe.interval([0.7, 0.8, 0.9])
    assert mean == pytest.approx(0.8) and half == pytest.approx(4.30265 * 0.1 / 3**0.5, rel=1e-5)
    assert np.isnan(linear_probe.interval([0.5])[1])


def test_names():
    assert linear_probe.name("ssl", "features") == "ssl_cached_features"
    assert linear_probe.name("ssl", "features", epochs=900) == "ssl_e900_cached_features"
    assert linear_probe.name("moco", "hidden", augmented=True) == "moco_crops_hidden"
    assert linear_probe.name("logistic", "pixels") == "logistic_c-by-fifth_cached_pixels"
