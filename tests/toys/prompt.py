"""Soft prompt: trained rows before the embedded tokens, started as rows of the vocabulary (Lester et al. 2021)."""

from dataclasses import dataclass

import jax.numpy as jnp
from flax import linen as nn

from pretrainx.adapt.wrapper import Wrapper
from pretrainx.core.axes import boxed
from pretrainx.models.decoder import Decoder


@dataclass(frozen=True)
class Prompt(Wrapper):
    rows: int = 3

    def init(self, key, batch):
        params = self.inner.init(key, batch)
        width = params["token"]["table"].value.shape[1]
        return params | {
            "prompt": boxed(jnp.zeros((self.rows, width), params["token"]["table"].value.dtype), "position", "embed")
        }

    def start(self, key, params, batch):
        params, extras = self.inner.start(key, params, batch)
        rows = params["token"]["table"].value[2 : 2 + self.rows]  # of the restored table
        return params | {"prompt": params["prompt"].replace_boxed(rows)}, extras

    def trains(self, path):
        return path == "prompt"

    def scope(self, params):
        def intercept(call, args, kwargs, context):
            if type(context.module) is not Decoder or "prompt" not in params:
                return call(*args, **kwargs)
            if context.method_name == "embed":
                x = call(*args, **kwargs)
                prompt = jnp.broadcast_to(params["prompt"].astype(x.dtype), (len(x), *params["prompt"].shape))
                return jnp.concatenate([prompt, x], 1)
            if context.method_name == "hidden":
                return call(args[0][:, self.rows :], *args[1:], **kwargs)
            return call(*args, **kwargs)

        return nn.intercept_methods(intercept)
