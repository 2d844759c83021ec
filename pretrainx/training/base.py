"""What a run never changes is stored once, in DIR/base: frozen parameters, and the constants among the extras.

Each step's meta record has the checksums of these leaves too, so a base that was damaged or exchanged is noticed with any step.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pretrainx.core import paths
from pretrainx.training.state import TrainState

STEP = 0  # of the one checkpoint that lies in DIR/base


def beside(checkpoints: Path) -> Path:
    """DIR/base of DIR/checkpoints."""
    return checkpoints.parent / "base"


def constant_paths(state: TrainState, constants: Iterable[str]) -> set[str]:
    """The paths, among those of a saved state, of what its run never changes.

    constants: as `Objective.constants` has them.
    """
    found = {f"params/{path}" for path, _ in paths.leaves(state.frozen)}
    extras = [path for path, _ in paths.leaves(state.extras)]
    return found | {f"extras/{path}" for path in extras if any(f"{path}/".startswith(f"{name}/") for name in constants)}
