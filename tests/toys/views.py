"""What the contrastive toys share: a random view of a row, and one normalised vector per row."""

import jax
import jax.numpy as jnp


def view(key, tokens):
    """tokens int32[T] with a fifth of them replaced by token 1."""
    return jnp.where(jax.random.bernoulli(key, 0.2, tokens.shape), 1, tokens)


def pooled(model, params, tokens, keys):
    """[B, D], of norm one, from tokens int32[B, T]."""
    run = lambda method, *args: model.apply({"params": params}, *args, method=method)
    x = run("hidden", run("blocks", run("embed", tokens, keys), keys)).mean(1)
    return x / jnp.sqrt((x * x).sum(1, keepdims=True) + 1e-6)
