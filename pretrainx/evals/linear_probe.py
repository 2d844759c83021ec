"""Linear read-outs of frozen features, by three protocols that give different figures: each is named in its metric.

ssl       BatchNorm without affine (eps 1e-6), then a dense layer; LARS, rate 0.1 * B / 256, 90 epochs, cosine after 10 of
          warm-up, no decay (He et al. 2022, appendix A.1). Rate and epochs are those of a million pictures: the kernel can
          grow by a factor of about exp(epochs * pictures / 500,000) in all, so a few thousand pictures need more epochs.
moco      a dense layer alone; SGD, momentum 0.9, rate 30, B 256, 100 epochs, a tenth after 60 and 80, no decay
          (He et al. 2020, section 4.1). The rate is meant for features of the size that a ResNet's pooling gives.
logistic  multinomial logistic regression with an L2 penalty, by L-BFGS in float64; its strength by a validation part
          (Radford et al. 2021, appendix A.3). The one for few labels.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy import optimize, special, stats

PROTOCOLS = ("ssl", "moco", "logistic")
STRENGTHS = tuple(10.0**power for power in range(-4, 5))  # C of `logistic`, against the sum of the losses


@dataclass(frozen=True)
class Protocol:
    """A dense layer trained by steps, its kernel drawn from N(0, 0.01), its bias 0.

    Attributes:
      rate: of steps of `batch` rows. warmup: epochs of linear warm-up, then a cosine to 0; 0: a tenth at each of `drops`.
      normalised: features first pass a BatchNorm without parameters; its running statistics are used afterwards.
      lars: the kernel's steps are scaled layer by layer; else plain SGD. Momentum is 0.9 in both.
    """

    rate: float
    batch: int
    epochs: int
    warmup: float = 0.0
    drops: tuple[float, ...] = ()
    normalised: bool = False
    lars: bool = False
    momentum: float = 0.9
    epsilon: float = 1e-6

    def rate_at(self, epoch):
        """The learning rate at a moment, in epochs."""
        if not self.warmup:
            return self.rate * 0.1 ** sum(jnp.where(epoch >= drop, 1.0, 0.0) for drop in self.drops)
        done = jnp.clip((epoch - self.warmup) / (self.epochs - self.warmup), 0, 1)
        return self.rate * jnp.where(epoch < self.warmup, epoch / self.warmup, (1 + jnp.cos(jnp.pi * done)) / 2)

    def optimizer(self, steps: int) -> optax.GradientTransformation:
        """With so many steps to an epoch."""
        rate = lambda count: self.rate_at(count / steps)
        if self.lars:
            return optax.lars(rate, trust_ratio_mask={"kernel": True, "bias": False}, momentum=self.momentum)
        return optax.chain(optax.trace(self.momentum), optax.scale_by_learning_rate(rate))


def protocol(name: str, rows: int, epochs: int = 0) -> Protocol:
    """The protocol "ssl" or "moco" for so many training rows: a batch is not larger than they are, and the rate of "ssl"
    follows it. `epochs` other than 0 stretches the schedule to so many."""
    if name == "ssl":
        batch, epochs = min(1024, rows), epochs or 90
        return Protocol(0.1 * batch / 256, batch, epochs, warmup=epochs / 9, normalised=True, lars=True)
    epochs = epochs or 100
    return Protocol(30.0, min(256, rows), epochs, drops=(0.6 * epochs, 0.8 * epochs))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _epoch(protocol: Protocol, steps: int, state, features: jax.Array, labels: jax.Array, key: jax.Array):
    """`state` after every row was seen once, in a new order; rows that fill no batch wait for another epoch."""
    optimizer = protocol.optimizer(steps)
    order = jax.random.permutation(key, len(features))[: steps * protocol.batch].reshape(steps, protocol.batch)

    def step(state, rows):
        params, moments, statistics = state
        x, y = features[rows], labels[rows]
        if protocol.normalised:
            mean, variance = x.mean(0), x.var(0)
            x = (x - mean) / jnp.sqrt(variance + protocol.epsilon)
            unbiased = variance * len(rows) / max(len(rows) - 1, 1)  # of the running variance alone, as in torch
            new = {"mean": mean, "variance": unbiased}
            statistics = jax.tree.map(lambda old, new: 0.9 * old + 0.1 * new, statistics, new)
        loss = lambda params: optax.softmax_cross_entropy_with_integer_labels(_logits(params, x), y).mean()
        updates, moments = optimizer.update(jax.grad(loss)(params), moments, params)
        return (optax.apply_updates(params, updates), moments, statistics), None

    return jax.lax.scan(step, state, order)[0]


def _logits(params, x):
    return jnp.matmul(x, params["kernel"], precision="highest") + params["bias"]


def fit(
    protocol: Protocol,
    features: np.ndarray | Callable[[int], np.ndarray],
    labels: np.ndarray,
    classes: int,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """(kernel float32[D, classes], bias float32[classes]) of the trained read-out, its BatchNorm folded in.

    features: float32[N, D], the same in all epochs, or a function of the epoch that gives them, of changed pictures. Order
    and initial kernel are of `seed` alone.
    """
    given = features if callable(features) else lambda epoch: features
    labels, steps = jnp.asarray(labels), len(labels) // protocol.batch
    starting, ordering = jax.random.split(jax.random.key(seed))
    state = None
    for epoch in range(protocol.epochs):
        if state is None or callable(features):
            x = jnp.asarray(given(epoch))
        if state is None:
            kernel = 0.01 * jax.random.normal(starting, (x.shape[1], classes))
            params = {"kernel": kernel, "bias": jnp.zeros(classes)}
            statistics = {"mean": jnp.zeros(x.shape[1]), "variance": jnp.ones(x.shape[1])}
            state = params, protocol.optimizer(steps).init(params), statistics
        state = _epoch(protocol, steps, state, x, labels, jax.random.fold_in(ordering, epoch))
    params, _, statistics = jax.device_get(state)
    if not protocol.normalised:
        return params["kernel"], params["bias"]
    scale = 1 / np.sqrt(statistics["variance"] + protocol.epsilon)
    kernel = scale[:, None] * params["kernel"]
    return kernel, params["bias"] - statistics["mean"] @ kernel


def logistic(
    features: np.ndarray,
    labels: np.ndarray,
    classes: int,
    strength: float,
    start: np.ndarray | None = None,
    tolerance: float = 1e-6,
) -> np.ndarray:
    """float64[D + 1, classes], the last row the bias: what minimises strength * sum of losses + |kernel|^2 / 2, as
    scikit-learn's C does; the bias is free. L-BFGS begins at `start` and ends where no gradient of the mean is larger than
    `tolerance`."""
    begin = np.zeros((features.shape[1] + 1, classes)) if start is None else start
    options = {"maxiter": 1000, "gtol": tolerance, "ftol": 1e-6 * tolerance}
    with jax.enable_x64(True):
        x, y = jnp.asarray(features, jnp.float64), jnp.asarray(labels)

        def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
            value, gradient = _penalised(flat.reshape(begin.shape), x, y, strength)
            return float(value), np.asarray(gradient).ravel()

        found = optimize.minimize(loss, begin.ravel(), jac=True, method="L-BFGS-B", options=options)
    return found.x.reshape(begin.shape)


# Not by NumPy: the threads of its matrix products wait for each other where a machine has other work too (measured: tenfold).
@jax.jit
def _penalised(weights: jax.Array, x: jax.Array, y: jax.Array, strength: float) -> tuple[jax.Array, jax.Array]:
    """(mean loss with its penalty, its gradient) of a read-out [D + 1, classes]."""

    def loss(weights: jax.Array) -> jax.Array:
        kernel, bias = weights[:-1], weights[-1]
        losses = optax.softmax_cross_entropy_with_integer_labels(_logits({"kernel": kernel, "bias": bias}, x), y)
        return losses.mean() + (kernel**2).sum() / (2 * strength * len(y))

    return jax.value_and_grad(loss)(weights)


def fit_logistic(
    features: np.ndarray, labels: np.ndarray, classes: int, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, float]:
    """(kernel float64[D, classes], bias float64[classes], C): C is the best of STRENGTHS on a fifth of the rows that the
    others have not seen, drawn class by class; then all rows are fitted with it.

    Features are centred and divided by their root mean square, one number for all dimensions, so that the same C mean the
    same for every encoder. The best has the largest log-likelihood: on so few rows accuracy is a matter of luck. The
    sweep goes up and ends when it has fallen twice.
    """
    features = np.asarray(features, np.float64)
    mean = features.mean(0)
    scale = max(float(np.sqrt(((features - mean) ** 2).mean())), 1e-12)
    x = (features - mean) / scale
    fifth = draw(labels, 0.2, seed)
    rest = np.setdiff1d(np.arange(len(labels)), fifth)
    best, chosen, fell, weights = -np.inf, 1.0, 0, None
    for strength in STRENGTHS if len(fifth) else ():
        weights = logistic(x[rest], labels[rest], classes, strength, weights, 1e-4)  # only to compare
        logits = x[fifth] @ weights[:-1] + weights[-1]
        score = float(special.log_softmax(logits, axis=1)[np.arange(len(fifth)), labels[fifth]].mean())
        fell = fell + 1 if score < best else 0
        if score > best:
            best, chosen = score, strength
        if fell == 2:
            break
    weights = logistic(x, labels, classes, chosen)
    kernel = weights[:-1] / scale
    return kernel, weights[-1] - mean @ kernel, chosen


def accuracy(
    name: str,
    train: np.ndarray | Callable[[int], np.ndarray],
    labels: np.ndarray,
    test: np.ndarray,
    truth: np.ndarray,
    classes: int,
    seed: int = 0,
    epochs: int = 0,
) -> float:
    """The share of `test` float32[M, D] that a read-out of `train` by the protocol `name` tells right; truth: int[M].

    `train` may be a function of the epoch (see `fit`); "logistic" fits features that stay the same, and has no epochs.
    """
    if name == "logistic":
        kernel, bias, _ = fit_logistic(train, labels, classes, seed)
    else:
        kernel, bias = fit(protocol(name, len(labels), epochs), train, labels, classes, seed)
    return float(((test @ kernel + bias).argmax(1) == truth).mean())


def name(protocol: str, layer: str, augmented: bool = False, epochs: int = 0) -> str:
    """What the figure depends on, as its metric is named: "ssl_cached_features", "moco_crops_features" with crops and flips
    in training, "ssl_e900_cached_features" with other epochs than the published ones, "logistic_c-by-fifth_cached_features"
    for C chosen on a fifth of the training rows."""
    if protocol == "logistic":
        return f"logistic_c-by-fifth_cached_{layer}"
    return f"{protocol}{f'_e{epochs}' if epochs else ''}_{'crops' if augmented else 'cached'}_{layer}"


def draw(labels: np.ndarray, per_class: int | float, seed: int) -> np.ndarray:
    """Sorted rows drawn by `seed`: so many of each class, all where it has fewer; of a fraction below 1 the nearest number,
    and never the whole class. 0 draws all."""
    if not per_class:
        return np.arange(len(labels))
    rng, chosen = np.random.default_rng(seed), []
    for each in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == each))
        count = per_class if per_class >= 1 else min(max(round(per_class * len(rows)), 1), len(rows) - 1)
        chosen.append(rows[:count])
    return np.sort(np.concatenate(chosen))


def interval(values) -> tuple[float, float]:
    """(mean, half of its 95 % interval by Student's t) of the figures of several seeds; nan with one alone."""
    values = np.asarray(values, np.float64)
    if len(values) < 2:
        return float(values.mean()), float("nan")
    spread = values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean()), float(stats.t.ppf(0.975, len(values) - 1) * spread)
