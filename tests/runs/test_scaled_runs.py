"""Runs scaled from a base: the same bits at the base itself, other numbers away from it, on a mesh and on resume, too."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pretrainx
from contract.cases import MARKED, make_batch
from contract.pictures import IMAGES
from pretrainx.core import paths
from pretrainx.runs.train import train
from pretrainx.scaling.widths import trainer

SIZES = {"width": 32, "depth": 2, "heads": 4}
AT_BASE = {"base_width": 32, "base_depth": 2, "base_head_dim": 8}
NARROWER = {"base_width": 16, "base_depth": 1}
T5 = {"name": "encoder_decoder", "norm_first": True, "positions": "relative", "initial": "fan_in", "tied": False}
FAMILIES = {
    "decoder": ("autoregressive", {"positions": "rotary", "qk_norm": True, "kv_heads": 2, "scaled_residual": True}),
    "experts": ("autoregressive", {"experts": {"count": 2, "chosen": 2}, "tied": False}),
    "encoder": ("masked_lm", {"name": "encoder", "norm_first": True, "pooler": True, "types": 2}),
    "encoder_decoder": ("span_corruption", {**T5, "scaled_attention": False}),
    "vit": ("classification", {"name": "vit", "patch": 4, "initial": "xavier"}),
}
each_family = pytest.mark.parametrize(
    "family", [pytest.param(name, marks=[pytest.mark.rotated] if name != "decoder" else []) for name in FAMILIES]
)


def three_steps(family, base):
    """(losses, parameters at the start, parameters after three updates) of a run of the family with these keys of a base."""
    objective, model = FAMILIES[family]
    pictures = objective == "classification"
    values = {
        "objective": {"name": objective},
        "model": {**SIZES, "norm_first": True, **model, **base} if family != "decoder" else {**SIZES, **model, **base},
        "data": {"name": "images"} if pictures else {"name": "text", "source": "stdlib", "length": 16},
        "optimizer": {"name": "muon" if family == "decoder" else "adamw"},
        "train": {"steps": 200, "batch_size": 8},
    }
    if family == "experts":
        del values["model"]["norm_first"]
    one = trainer(values, types.SimpleNamespace(about=IMAGES if pictures else MARKED))
    state, step, losses = one.start(), one.step(), []
    first = state.params
    for number in range(3):
        batch = one.placed(make_batch(one.parts.objective, 8, number))
        state, loss = step(state, batch, jnp.asarray(1e-2, jnp.float32))
        losses.append(float(loss))
    return losses, *(dict(paths.leaves(jax.device_get(tree))) for tree in (first, state.params))


@pytest.mark.slow
@each_family
def test_at_the_base_bits_are_the_same(family):
    """Widths, depths and heads are the base's: initial values, losses and every leaf after three real steps."""
    losses, first, last = three_steps(family, {})
    found_losses, found_first, found_last = three_steps(family, AT_BASE)
    assert found_losses == losses
    for before, after in ((first, found_first), (last, found_last)):
        assert before.keys() == after.keys()
        assert all(np.array_equal(before[path], after[path]) for path in before)
    assert any(not np.array_equal(first[path], last[path]) for path in last)


@pytest.mark.slow
@pytest.mark.rotated
@pytest.mark.parametrize("family", FAMILIES)
def test_away_from_the_base_numbers_change(family):
    """A flag that does nothing is the oldest fault of all: hidden matrices start smaller, and losses differ."""
    losses, first, _ = three_steps(family, {})
    found_losses, found, _ = three_steps(family, NARROWER)
    assert all(abs(ours - theirs) > 1e-5 for ours, theirs in zip(found_losses, losses, strict=True))
    smaller = [
        path
        for path in first
        if path.endswith("kernel") and np.abs(found[path]).mean() < 0.8 * np.abs(first[path]).mean()
    ]
    by_law = family in ("encoder_decoder", "vit")  # these laws divide by the inputs in any case
    assert by_law or any("mlp/up" in path for path in smaller)


@pytest.fixture
def scaled(make_values):
    """A run of twice its base's width and depth, at a constant rate: the schedule does not depend on the steps."""
    model = {"dropout": 0.0, "bias": False, "base_width": 16, "base_depth": 1}
    return lambda steps, **mesh: make_values(
        model=model, mesh=mesh, schedule={"name": "constant", "warmup": 0}, train={"steps": steps, "eval_every": 0}
    )


@pytest.mark.slow
def test_multipliers_on_a_mesh_and_on_resume(scaled, tmp_path):
    """Three steps on a cube of devices are those of rows alone; stopped after one and resumed, the rest is bit-equal."""
    quiet = lambda line: None
    params = {}
    for name, mesh in (("flat", {"data": 8}), ("cube", {"data": 2, "fsdp": 2, "tensor": 2})):
        assert train(scaled(3, **mesh), tmp_path / name, say=quiet) == 0
        params[name] = dict(paths.leaves(jax.device_get(pretrainx.load(tmp_path / name).params)))
    for path, leaf in params["flat"].items():
        np.testing.assert_allclose(params["cube"][path], leaf, rtol=1e-3, atol=2e-5, err_msg=path)
    for steps in (1, 3):
        assert train(scaled(steps, data=8), tmp_path / "resumed", say=quiet) == 0
    resumed = dict(paths.leaves(jax.device_get(pretrainx.load(tmp_path / "resumed").params)))
    assert all(np.array_equal(resumed[path], leaf) for path, leaf in params["flat"].items())
    rows = (line.split() for line in (tmp_path / "resumed" / "params.txt").read_text().splitlines())
    cells = {path: rest for path, *rest in rows}
    assert "0.5" in cells["layers/mlp/up/kernel"] and "0.5" not in cells["token/table"]
