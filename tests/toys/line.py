"""The smallest objective: a row's loss is its numbers times the parameters, so every step can be computed by hand."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from pretrainx.core.axes import boxed
from pretrainx.core.records import Mean, Observation, Outcome, Term
from pretrainx.objectives import cross_entropy
from pretrainx.objectives.objective import Objective

WIDTH = 2


@dataclass(frozen=True)
class Line(Objective):
    """Terms: `fit`, the weighted x . slope of each row; `size`, |slope|^2 with weights of its own.

    Attributes:
      coefficient: of the term `size`, a number or a schedule.
      noise: standard deviation of what `observe` adds to a row's x.
    """

    coefficient: object = 0.0
    noise: float = 0.0

    @property
    def terms(self):
        return (Term("fit"), Term("size", self.coefficient))

    def batch_spec(self, rows):
        number = jax.ShapeDtypeStruct((rows,), jnp.float64)
        x = jax.ShapeDtypeStruct((rows, WIDTH), jnp.float64)
        return {"x": x, "fit": number, "size": number, "valid": jax.ShapeDtypeStruct((rows,), jnp.bool_)}

    def init(self, key, batch):
        """slope is trained; `still` has its shape and is not."""
        return {"slope": boxed(jnp.ones(WIDTH), "embed"), "still": boxed(jnp.full(WIDTH, 2.0), "embed")}

    def trains(self, path):
        return not path.startswith("still")

    def start(self, key, params, batch):
        rows = batch["valid"].shape[0]
        seen = boxed(jnp.zeros((rows, WIDTH)), None, "embed")
        return params, {"mean": boxed(jnp.zeros(WIDTH), "embed"), "rows": seen, "steps": boxed(jnp.int32(0))}

    def observe(self, key, example, step):
        x = example["x"] + self.noise * jax.random.normal(key, (WIDTH,), jnp.float64)
        return Observation({"x": x}, {}, {"fit": example["fit"], "size": example["size"]})

    def encode(self, params, extras, observation, keys, step, *, train):
        """`mean` is a running mean of x, `rows` the x of the last step in row order."""
        x, weights = observation.inputs["x"], observation.weights
        scored = cross_entropy.outcome("fit", x @ params["slope"], weights["fit"])
        size = weights["size"] * (params["slope"] ** 2).sum()
        return scored.replace(
            totals=scored.totals | {"size": size.sum()},
            per_row=scored.per_row | {"size": jax.lax.stop_gradient(size)},
            extras={"mean": 0.9 * extras["mean"] + 0.1 * x.mean(0)},
            collected={"x": x},
            metrics={"first": Mean((weights["fit"] * x[:, 0]).sum(), weights["fit"].sum())},
        )

    def advance(self, params, extras, collected, key, step):
        return params, extras | {"rows": collected["x"], "steps": extras["steps"] + 1}


@dataclass(frozen=True)
class Pairs(Line):
    """Coupled rows: each row's vector, with noise of its own key, must tell itself from the others at a temperature.

    The scale is a parameter that only `couple` uses; `size` stays a total of `encode`.
    """

    dropout: float = 0.3

    def init(self, key, batch):
        return super().init(key, batch) | {"scale": boxed(jnp.ones(()))}

    def encode(self, params, extras, observation, keys, step, *, train):
        alone = super().encode(params, extras, observation, keys, step, train=train)
        draw = lambda key: 1 + self.dropout * jax.random.normal(key, (WIDTH,), jnp.float64)
        vectors = jnp.tanh(observation.inputs["x"] * params["slope"] * jax.vmap(draw)(keys))
        without = lambda terms: {"size": terms["size"]}
        return alone.replace(
            totals=without(alone.totals), per_row=without(alone.per_row), representations={"vector": vectors}
        )

    def couple(self, params, extras, representations, observation, step):
        vectors = representations["vector"]
        logits = jnp.where(observation.valid[None], params["scale"] * vectors @ vectors.T, -1e9)
        nll = cross_entropy.token_nll(logits, jnp.arange(len(logits)))
        scored = cross_entropy.outcome("fit", nll, observation.weights["fit"])
        return Outcome(totals=scored.totals, per_row=scored.per_row)
