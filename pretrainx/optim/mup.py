"""muP and CompleteP as rules of the optimizer: how a leaf's rate, decay and epsilon follow from how much wider and deeper the
model is than the one whose rates were tuned (models/scaled.py has the model's part).

Rules go by role and logical axes, so they are the same in a scanned stack and on every mesh. With m = width / base width:

- a kernel whose inputs grow has its rate divided by m, since an update of Adam's size in each of m times as many inputs adds
  up (Yang et al. 2022, table 8). Its decay is multiplied by m: rate times decay stays (CompleteP, table 1).
- embeddings, vectors, scalars, and kernels that read patches or ranks keep their rate; so do heads, whose logits the model
  divides by m.
- Adam's epsilon falls as gradients do: by m, and in the stack by the ratio of depths too. Gradients are multiplied instead,
  which is the same and can differ by leaf. No rate depends on depth.
- Muon's update of a hidden kernel is 0.2 sqrt(larger side) times an orthogonal matrix, as large as Adam's entry by entry. Its
  norm must not grow: the rate is divided by sqrt(m). With few outputs it is divided by m, as Adam's.
"""

from __future__ import annotations

from dataclasses import dataclass

from pretrainx.core import axes
from pretrainx.core.errors import ConfigError
from pretrainx.optim import per_layer
from pretrainx.optim.algorithms import AdafactorConfig, AdamWConfig, LionConfig, MuonConfig

# Axes whose sizes grow with the model, and those that do not.
GROWING = ("embed", "mlp", "heads", "head_dim")
CONSTANT = ("vocab", "position", "type", "prompt", "classes", "routes", "patch", "rank")
WHERE = "config.optimizer.name"


@dataclass(frozen=True)
class Mup:
    """Attributes:
    width: m, the model's width over the base's.
    depth: its depth over the base's.
    """

    width: float = 1.0
    depth: float = 1.0

    @property
    def scales(self) -> bool:
        return self.width != 1 or self.depth != 1

    def rate(self, config, names: axes.Names) -> float:
        """The multiplier of a leaf's learning rate; its weight decay is divided by it."""
        if axes.role(names) != "kernel":
            return 1.0
        inputs, outputs = (any(names[index] in GROWING for index in side) for side in per_layer.sides(names))
        if not inputs:
            return 1.0
        return self.width**-0.5 if isinstance(config, MuonConfig) and outputs else 1 / self.width

    def gradient(self, names: axes.Names) -> float:
        """What a leaf's gradient is multiplied by before Adam, whose epsilon is then relative to the base's gradients."""
        return self.width * (self.depth if "layers" in names else 1.0)


def check(config, leaves: tuple[tuple[str, axes.Names], ...]) -> None:
    """ConfigError for an optimizer that has no rule here, and for a kernel of which it is not known what grows."""
    relative = isinstance(config, AdafactorConfig) and config.relative
    if relative or not isinstance(config, AdamWConfig | LionConfig | AdafactorConfig):
        raise ConfigError(
            "muP has no rule for this optimizer here",
            where="config.optimizer.relative" if relative else WHERE,
            why="its updates are scaled by the parameter's own size, which does not start alike at all widths"
            if relative
            else f"{type(config).__name__.removesuffix('Config')}'s updates follow the size of gradients or of parameters",
            do="--config.optimizer.relative=False"
            if relative
            else "--config.optimizer.name=adamw, muon or lion; or --config.model.base_width=0 --config.model.base_depth=0",
        )
    for path, names in leaves:
        unknown = [name for name in axes.without_stacks(names) if name not in (*GROWING, *CONSTANT)]
        if axes.role(names) in per_layer.MATRICES and unknown:
            raise ConfigError(
                "muP does not know what grows with the model",
                where="config.model.base_width",
                why=f"{path} has the axes {names}, and of {unknown[0]!r} nothing is said",
                do="--config.model.base_width=0 --config.model.base_depth=0",
            )
