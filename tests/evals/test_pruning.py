"""Pruning by magnitude: what goes, what stays, and that the model is scored as it then is."""

import numpy as np
import pytest

from pretrainx.core.errors import ConfigError
from pretrainx.evals.pruning import PruningConfig, pruning, thresholds

NAMES = (
    ("a/kernel", ("layers", "embed", "mlp")),
    ("a/bias", ("layers", "mlp")),
    ("head/kernel", ("embed", "vocab")),
    ("norm/scale", ("layers", "norm")),
    ("token/table", ("vocab", "embed")),
)


def parameters():
    rng = np.random.default_rng(0)
    shapes = {"a": {"kernel": (2, 4, 5), "bias": (2, 5)}, "head": {"kernel": (4, 10)}, "norm": {"scale": (2, 4)}}
    shapes["token"] = {"table": (10, 4)}
    draw = lambda shape: (rng.standard_normal(shape) * 0.01).astype(np.float32)
    return {part: {name: draw(shape) for name, shape in leaves.items()} for part, leaves in shapes.items()}


def test_the_smallest_of_all_matrices_together_go():
    params, seen = parameters(), []
    params["head"]["kernel"] *= 10  # so that hardly any of it is among the smallest half

    def held_out(given, extras, step):
        seen.append(given)
        return {"loss": float(len(seen)), "metric/accuracy": 0.5}

    found = dict(pruning(PruningConfig((0.0, 0.5, 0.9)), held_out, params, NAMES, {}, 7))
    assert found == {
        f"{s:g}/{m}": v for i, s in enumerate((0, 0.5, 0.9), 1) for m, v in (("loss", i), ("accuracy", 0.5))
    }
    for part, name in (("a", "bias"), ("norm", "scale"), ("token", "table")):
        assert all(np.array_equal(given[part][name], params[part][name]) for given in seen)
    matrices = [np.concatenate([np.ravel(given["a"]["kernel"]), np.ravel(given["head"]["kernel"])]) for given in seen]
    assert [(each == 0).sum() for each in matrices] == [0, 40, 72]
    whole = np.abs(matrices[0])
    for each in matrices[1:]:
        assert whole[each == 0].max() < whole[each != 0].min()
        assert np.array_equal(each[each != 0], matrices[0][each != 0])
    assert (np.asarray(seen[1]["head"]["kernel"]) == 0).sum() < 8  # global, not half of every matrix


def test_a_model_without_matrices_is_refused():
    params = {"norm": {"scale": np.ones((2, 4))}}
    with pytest.raises(ConfigError, match="nothing to prune"):
        thresholds(params, (("norm/scale", ("layers", "norm")),), (0.5,))
