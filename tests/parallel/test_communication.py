"""Communication on paper is what a compiled step does."""

import math

import pytest
from parallel.small_steps import LENGTH, ROWS, compiled_on, sizes

from pretrainx.core import paths
from pretrainx.parallel import collectives, communication

MESHES = [
    pytest.param({"data": 2, "fsdp": 4}, marks=pytest.mark.xdist_group("small steps")),
    *(
        pytest.param(mesh, marks=[pytest.mark.slow, pytest.mark.rotated])
        for mesh in ({"data": 1, "fsdp": 2, "tensor": 4}, {"data": 2, "context": 4})
    ),
]


@pytest.fixture(scope="module", params=MESHES, ids=str)
def both(request):
    """(mesh, collectives on paper, collectives of the compiled step)"""
    mesh = request.param
    like, real, text = compiled_on(**mesh)
    leaves = {path: leaf.size for path, leaf in paths.leaves(like.params)}
    kernels = sum(size for path, size in leaves.items() if path.startswith("layers") and path.endswith("kernel"))
    model = communication.Sizes(3, 32, 32, kernels // 3, leaves["token/table"], leaves["unembed/kernel"], compute=4)
    tokens = ROWS * LENGTH // math.prod(size for axis, size in mesh.items() if axis != "tensor")
    return mesh, communication.step(model, mesh, tokens), collectives.read(text, real)


def reduced(found, axis, share=1.0):
    """Bytes of what is summed over an axis; of a sum over `data` and `fsdp` at once, the part that `share` says."""
    return sum(
        each.size * each.count * (share if len(each.axes) > 1 else 1)
        for each in found
        if axis in each.axes and each.kind in ("all-reduce", "reduce-scatter")
    )


def test_gathers(both):
    """Paper leaves out norms, which are a thousandth of a model of any size: here, 2%."""
    _, paper, found = both
    assert sizes(found, "all-gather", "context") == sizes(paper, "all-gather", "context")
    assert sizes(found, "all-gather", "fsdp") == pytest.approx(sizes(paper, "all-gather", "fsdp"), rel=0.03)
    assert sizes(paper, "all-gather", "fsdp") <= sizes(found, "all-gather", "fsdp")


def test_reductions(both):
    """CPUs reduce whole gradients where others scatter them, and small ones over both axes at once: sizes are compared."""
    mesh, paper, found = both
    assert reduced(found, "fsdp") == pytest.approx(reduced(paper, "fsdp"), rel=0.02)
    assert reduced(found, "data", 1 / mesh.get("fsdp", 1)) == pytest.approx(reduced(paper, "data"), rel=0.02)
    assert reduced(found, "tensor") == pytest.approx(reduced(paper, "tensor"), rel=0.02)
    assert reduced(found, "context") == pytest.approx(reduced(paper, "context"), rel=0.02)


def test_weights_alone():
    """Three microbatches over 2 replicas of 8 shards each, by hand."""
    model = communication.Sizes(10, 64, 16, 1_000, 300, 200)
    found = collectives.table(communication.step(model, {"data": 2, "fsdp": 8}, tokens=16, microbatches=3))
    assert {(row.kind, row.axes): row.bytes for row in found} == {
        ("all-gather", ("fsdp",)): 3 * 7 * (20 * 2_000 + 1_200 + 400) // 8,
        ("reduce-scatter", ("fsdp",)): 3 * 7 * (10 * 4_000 + 2_000) // 8,
        ("all-reduce", ("data",)): 3 * 10_500 * 4 // 8,
    }
