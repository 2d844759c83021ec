"""Which steps count: non-finite ones never, loss spikes on request (OLMo's rule: mean + 6 sigma of the last 128)."""

from __future__ import annotations

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp


@dataclass(frozen=True)
class GuardConfig:
    """Attributes:
    patience: skipped steps in a row after which the run stops (exit 6).
    spike_sigma: skip steps whose loss or gradient norm exceeds mean + spike_sigma * deviation; 0 is off.
    window: how many accepted steps that mean is over.
    """

    patience: int = field(default=5, metadata={"min": 1})
    spike_sigma: float = field(default=0.0, metadata={"min": 0})
    window: int = field(default=128, metadata={"min": 2})


def start(config: GuardConfig) -> dict[str, jax.Array]:
    """The guard's state: part of the checkpoint, so that a resumed run takes the same decisions."""
    counters = {name: jnp.zeros((), jnp.int32) for name in ("skipped", "streak", "accepted")}
    return counters | {"recent": jnp.zeros((config.window, 2), jnp.float32)}


def accept(config: GuardConfig, guard, loss: jax.Array, grad_norm: jax.Array) -> jax.Array:
    """bool[]: whether this step may change the state. Both values are global, so all devices agree."""
    finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
    if config.spike_sigma == 0:
        return finite
    seen = jnp.stack([loss, grad_norm]).astype(jnp.float32)
    limit = guard["recent"].mean(0) + config.spike_sigma * guard["recent"].std(0)
    return finite & ((guard["accepted"] < config.window) | jnp.all(seen <= limit))


def record(config: GuardConfig, guard, accepted: jax.Array, loss: jax.Array, grad_norm: jax.Array):
    """The guard's state after a step."""
    seen = jnp.stack([loss, grad_norm]).astype(jnp.float32)
    recent = guard["recent"].at[guard["accepted"] % config.window].set(seen)
    one = accepted.astype(jnp.int32)
    return {
        "skipped": guard["skipped"] + 1 - one,
        "streak": jnp.where(accepted, 0, guard["streak"] + 1),
        "accepted": guard["accepted"] + one,
        "recent": jnp.where(accepted, recent, guard["recent"]),
    }
