"""BatchNorm against torch, ResNets against torchvision: outputs, running statistics and every gradient, in float64."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from parity.reference import apart, randomised
from pretrainx.core import paths
from pretrainx.core.images import Images
from pretrainx.models.batch_norm import BatchNorm
from pretrainx.models.layers import Precision
from pretrainx.models.resnet import RESNET18, RESNET50
from pretrainx.models.siamese import run

WIDE = Precision("float64", "float64")
draw = lambda *shape, seed=0: np.random.default_rng(seed).standard_normal(shape)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("places", [(), (3, 2)])
def test_batch_norm(reference, places, train):
    import torch

    x, weigh = 3 * draw(7, *places, 5) + 1, draw(7, *places, 5, seed=1)
    theirs = (torch.nn.BatchNorm2d if places else torch.nn.BatchNorm1d)(5).double().train(train)
    leaves = {"scale": draw(5, seed=2), "bias": draw(5, seed=3)}
    stats = {"mean": draw(5, seed=4), "var": 1 + draw(5, seed=5) ** 2}
    with torch.no_grad():
        for ours, name in ((leaves["scale"], "weight"), (leaves["bias"], "bias")):
            getattr(theirs, name).copy_(torch.tensor(ours))
        theirs.running_mean.copy_(torch.tensor(stats["mean"]))
        theirs.running_var.copy_(torch.tensor(stats["var"]))
    first = lambda array: np.moveaxis(array, -1, 1)
    given = torch.tensor(first(x), requires_grad=True)
    output = theirs(given)
    (output * torch.tensor(first(weigh))).sum().backward()

    def loss(leaves, x):
        y, moved = run(BatchNorm(precision=WIDE), leaves, stats, x, train=train)
        return (y * weigh).sum(), (y, moved)

    (gradients, to_x), (y, moved) = jax.jit(jax.grad(loss, (0, 1), has_aux=True))(leaves, x)
    errors = {
        "output": apart(first(y), output.detach().numpy()),
        "input": apart(first(to_x), given.grad.numpy()),
        "scale": apart(gradients["scale"], theirs.weight.grad.numpy()),
        "bias": apart(gradients["bias"], theirs.bias.grad.numpy()),
        "mean": apart(moved["mean"], theirs.running_mean.numpy()),
        "var": apart(moved["var"], theirs.running_var.numpy()),
    }
    assert max(errors.values()) < 1e-12, errors


def ours_of(name: str) -> str:
    """Our path of a name in torchvision."""
    stages = {"conv1": "stem", "bn1": "stem_norm"}
    *module, leaf = name.split(".")
    if module[0].startswith("layer"):
        stage, block, inner = int(module[0][5]) - 1, module[1], module[2:]
        if inner[0] == "downsample":
            inner = ["shortcut" if inner[1] == "0" else "shortcut_norm"]
        else:
            inner = [inner[0].replace("conv", "conv_").replace("bn", "norm_")]
            inner = [inner[0][:-1] + str(int(inner[0][-1]) - 1)]
        path = f"stage_{stage}_block_{block}/{inner[0]}"
    else:
        path = stages[module[0]]
    kind = {"weight": "scale" if "norm" in path else "kernel", "bias": "bias"}
    return f"{path}/{ {'running_mean': 'mean', 'running_var': 'var'}.get(leaf) or kind[leaf] }"


def tree_of(tensors: dict) -> dict:
    """Our tree of named tensors: kernels [O, I, k, k] become [k, k, I, O]."""
    arrays = {ours_of(name): array.detach().numpy() for name, array in tensors.items()}
    return paths.from_leaves((path, a.transpose(2, 3, 1, 0) if a.ndim == 4 else a) for path, a in arrays.items())


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(replace(RESNET18, stages=(1, 1, 1, 1)), id="basic"),
        pytest.param(replace(RESNET50, stages=(1, 1, 1, 1)), id="bottleneck"),
        pytest.param(RESNET18, id="resnet18", marks=pytest.mark.slow),
        pytest.param(RESNET50, id="resnet50", marks=pytest.mark.slow),
    ],
)
def test_resnet(vision_reference, config):
    import torch
    from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

    block = Bottleneck if config.bottleneck else BasicBlock
    theirs = randomised(ResNet(block, list(config.stages)), "float64")
    theirs.fc = torch.nn.Identity()
    with torch.no_grad():
        for leaf, parameter in theirs.named_parameters():
            if parameter.ndim == 4:  # random kernels that keep the scale of what goes through
                parameter.copy_(parameter * 5 * (2 / (parameter[0].numel())) ** 0.5)
            elif leaf.endswith("weight"):
                parameter.copy_(1 + (parameter - 1) / 2)
        for leaf, buffer in theirs.named_buffers():
            if "running" in leaf:
                buffer.copy_(buffer + torch.rand(buffer.shape, dtype=torch.float64))
    buffers = {leaf: buffer.clone() for leaf, buffer in theirs.named_buffers() if "running" in leaf}
    params, stats = tree_of(dict(theirs.named_parameters())), tree_of(buffers)
    images = draw(3, 36, 36, 3)
    model = replace(config, stem="large").build(Images(36), WIDE)
    weigh = draw(3, model.feature_width, seed=1)

    def loss(params, train):
        features, moved = run(model, params, stats, images, train=train)
        return (features * weigh).sum(), (features, moved)

    for train in (False, True):
        theirs.train(train).zero_grad()
        wanted = theirs(torch.tensor(images.transpose(0, 3, 1, 2)))
        (wanted * torch.tensor(weigh)).sum().backward()
        found = jax.jit(jax.grad(lambda params, train=train: loss(params, train), has_aux=True))(params)
        gradients, (features, moved) = jax.tree.map(np.asarray, found)
        errors = {"features": apart(features, wanted.detach().numpy())}
        for ours, reference in (
            (gradients, tree_of({leaf: parameter.grad for leaf, parameter in theirs.named_parameters()})),
            (moved, tree_of({leaf: buffer for leaf, buffer in theirs.named_buffers() if leaf in buffers})),
        ):
            pairs = list(zip(paths.leaves(ours), paths.leaves(reference), strict=True))
            assert all(a == b for (a, _), (b, _) in pairs)
            errors |= {path: apart(array, other) for (path, array), (_, other) in pairs}
        worst = max(errors, key=errors.get)
        print(f"{config.stages}, train {train}: {len(errors)} arrays, worst {worst} {errors[worst]:.1e}")
        assert errors[worst] < 1e-9, {path: error for path, error in errors.items() if error >= 1e-9}
        assert jnp.abs(features).max() > 1e-3
