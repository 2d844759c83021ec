"""What follows in a model from being scaled up from a base whose rates were tuned: muP in width, CompleteP in depth.

With m = width / base_width (Yang et al. 2022, tables 3 and 8; Dey & Anthony 2024): matrices whose inputs grow start with
variance / m, heads multiply by 1 / m, scores are divided by K where heads grow. What a block adds is multiplied by base_depth /
depth (CompleteP: Dey et al. 2025, alpha 1). Rates, decay and epsilon are the optimizer's part (optim/mup.py).

At m = 1 every factor is exactly 1, and without a base none is there. Multipliers of embedding and logits have no keys: under
Adam they are the same as `initial_std` and a group's rate of the role embedding or head.
"""

from __future__ import annotations


class Scaled:
    """Factors of a configuration that has width, depth, head_size, scaled_attention, initial_std, and StackConfig's base_width,
    base_head_dim, base_depth and zero_init."""

    @property
    def wider(self) -> float:
        """m, how many times wider the model is than its base; 1.0 without one."""
        return self.width / self.base_width if self.base_width else 1.0

    @property
    def deeper(self) -> float:
        """How many times deeper it is."""
        return self.depth / self.base_depth if self.base_depth else 1.0

    @property
    def readout(self) -> float:
        """What the product of a head with hidden states is multiplied by: 1 / m."""
        return 1.0 / self.wider

    @property
    def tuned_width(self) -> int:
        return self.base_width or self.width

    @property
    def hidden_std(self) -> float:
        """Of matrices whose inputs are as many as the model is wide, under the "normal" start."""
        return self.initial_std * self.wider**-0.5

    @property
    def grown(self) -> float:
        """What scores are multiplied by beside 1 / sqrt(K): sqrt(base K / K)."""
        return (self.base_head_dim / self.head_size) ** 0.5 if self.base_head_dim else 1.0

    @property
    def score_scale(self) -> float | None:
        """Of attention scores; None is 1 / sqrt(K).

        Queries and keys come to agree as they learn, so scores are to fall as base K / K from what they are at the base,
        whether or not they are divided by sqrt(K) there.
        """
        if self.grown == 1:
            return None if self.scaled_attention else 1.0
        return self.grown * self.head_size**-0.5 if self.scaled_attention else self.grown**2

    def query_std(self, std: float) -> float:
        return 0.0 if self.zero_init else std
