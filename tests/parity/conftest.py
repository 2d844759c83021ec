"""What equality with other implementations needs. Missing packages are a skip for users and a failure in CI."""

import os

import pytest

# Every reference is built from a config: nothing is looked up in the network.
os.environ["HF_HUB_OFFLINE"] = "1"


# What was declared to torch lasts as long as this is referenced.
DECLARED = []


@pytest.fixture
def reference():
    """torch and transformers."""
    for name in ("torch", "transformers"):
        pytest.importorskip(name, reason=f"{name} is not installed: pip install 'pretrainx[parity]'")
        declare_operators()


@pytest.fixture
def vision_reference(reference):
    """torch, torchvision, timm, lightly and open_clip."""
    for name in ("torchvision", "timm", "lightly", "open_clip"):
        pytest.importorskip(name, reason=f"{name} is not installed: pip install --no-deps -r tests/parity/no_deps.txt")


@pytest.fixture
def peft_reference(reference):
    """torch, transformers and peft."""
    pytest.importorskip("peft", reason="peft is not installed: pip install --no-deps -r tests/parity/no_deps.txt")


def declare_operators():
    """torchvision's wheel is built for CUDA: beside a CPU-only torch it imports where torch knows these two operators by
    schema. They cannot run. Where it is installed and does not import, parts of transformers do not import either."""
    import torch

    if DECLARED or hasattr(torch.ops.torchvision, "nms"):
        return
    DECLARED.append(torch.library.Library("torchvision", "DEF"))
    for name in ("nms", "qnms"):
        DECLARED[0].define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Under CI=true a skip fails: a suite that is skipped proves nothing."""
    return without_skip((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    """So does the skip of a whole file."""
    return without_skip((yield))


def without_skip(report):
    if report.skipped and os.environ.get("CI") == "true":
        report.outcome = "failed"
        report.longrepr = f"skipped in CI: {report.longrepr}"
    return report
