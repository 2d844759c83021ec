"""Blocks one after the other: scanned over their layers, and in a pipeline where the layers lie over stages."""

from __future__ import annotations

import jax
from flax import linen as nn
from flax.core import Scope

from pretrainx.models.attention import Cache
from pretrainx.models.layers import Precision
from pretrainx.models.stack import REMAT, Around, Block, StackConfig
from pretrainx.parallel.pipeline import pieces, through_stages


class Stack(nn.Module):
    """(x, layer numbers, caches, memories, around) -> (x, (caches, memories) where there are caches, or what blocks say).

    Its parameters are those of the scanned blocks, [L, ...], however they are gone through. With caches it is no pipeline:
    where the layers lie over stages, each is then fetched from its stage. In a pipeline config.remat says what is kept of a
    stage's work on a piece, not of a block: "full" only what the stage was sent, as GPipe has it.

    Attributes:
      depth, causal, cross, first_site: as Block has them.
    """

    config: StackConfig
    precision: Precision
    depth: int
    causal: bool
    cross: bool = False
    first_site: int = 0

    def setup(self):
        self.blocks = self._scanned(self.depth, REMAT[self.config.remat])
        nn.share_scope(self, self.blocks)

    def __call__(
        self,
        x: jax.Array,
        numbers: jax.Array,
        cache: Cache | None,
        memory: tuple[jax.Array, jax.Array] | None,
        around: Around,
    ):
        if cache is not None or self.is_initializing() or not pieces(x.shape[0], self.depth):
            return self.blocks(x, numbers, cache, memory, around)

        def apply(params, x, numbers, around):
            """Where the scanned blocks are, so that wrappers find them by the same paths."""
            place = Scope({"params": params}, path=self.scope.path)
            return self._scanned(len(numbers)).clone(parent=place)(x, numbers, None, None, around)

        params = self.variables["params"]
        return through_stages(apply, params, x, numbers, around, REMAT[self.config.remat])

    def _scanned(self, length: int, policy=None) -> nn.Module:
        """Not bound. To be called in `setup` and later: scan and remat make a new class at each call, and as fields they
        would make equal models differ."""
        config = self.config
        block = Block if policy is None else nn.remat(Block, prevent_cse=config.unroll == 0, policy=policy)
        return nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(0, 0, 0, nn.broadcast),
            length=length,
            unroll=config.unroll or length,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )(config, self.precision, self.depth, self.causal, self.cross, self.first_site, parent=None)
