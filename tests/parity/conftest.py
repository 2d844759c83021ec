"""What equality with other implementations needs. Missing packages are a skip for users and a failure in CI."""

import os

import pytest

# Every reference is built from a config: nothing is looked up in the network.
os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.fixture
def reference():
    """torch and transformers."""
    for name in ("torch", "transformers"):
        pytest.importorskip(name, reason=f"{name} is not installed: pip install 'pretrainx[parity]'")


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
