"""Linear models whose Fisher information is known: a regression with unit noise, a choice among classes at several places."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from pretrainx.core.axes import boxed
from pretrainx.core.records import Observation, Term
from pretrainx.objectives import cross_entropy
from pretrainx.objectives.objective import Objective, check_outputs

WIDTH = 3


@dataclass(frozen=True)
class Regression(Objective):
    """-log p(y | x) of y = slope . x + noise, up to a constant: the Fisher information of slope_i is the mean of x_i^2."""

    terms = (Term("nll"),)

    def batch_spec(self, rows):
        number = jax.ShapeDtypeStruct((rows,), jnp.float64)
        return {
            "x": jax.ShapeDtypeStruct((rows, WIDTH), jnp.float64),
            "y": number,
            "valid": jax.ShapeDtypeStruct((rows,), jnp.bool_),
        }

    def init(self, key, batch):
        return {"slope": boxed(jnp.zeros(WIDTH), "embed")}

    def observe(self, key, example, step):
        return Observation({"x": example["x"]}, example["y"], {"nll": jnp.float64(1)})

    def encode(self, params, extras, observation, keys, step, *, train):
        off = observation.targets - observation.inputs["x"] @ params["slope"]
        return cross_entropy.outcome("nll", off**2 / 2, observation.weights["nll"])

    def outputs(self, params, extras, inputs, names, key=None, *, train=False):
        check_outputs(names, ("mean",))
        return {"mean": inputs["x"] @ params["slope"]}


@dataclass(frozen=True)
class Choice(Objective):
    """A class at each of the places of a row, by a softmax of x . kernel; `weight` says which places count."""

    places: int = 2
    classes: int = 4

    terms = (Term("nll"),)

    def batch_spec(self, rows):
        each = lambda dtype, *more: jax.ShapeDtypeStruct((rows, self.places, *more), dtype)
        return {
            "x": each(jnp.float64, WIDTH),
            "label": each(jnp.int32),
            "weight": each(jnp.float64),
            "valid": jax.ShapeDtypeStruct((rows,), jnp.bool_),
        }

    def init(self, key, batch):
        return {"kernel": boxed(jax.random.normal(key, (WIDTH, self.classes)), "embed", "classes")}

    def observe(self, key, example, step):
        return Observation({"x": example["x"]}, example["label"], {"nll": example["weight"]})

    def encode(self, params, extras, observation, keys, step, *, train):
        logits = observation.inputs["x"] @ params["kernel"]
        return cross_entropy.outcome(
            "nll", cross_entropy.token_nll(logits, observation.targets), observation.weights["nll"]
        )

    def outputs(self, params, extras, inputs, names, key=None, *, train=False):
        check_outputs(names, ("logits",))
        return {"logits": inputs["x"] @ params["kernel"]}
