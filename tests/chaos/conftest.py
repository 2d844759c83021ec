"""One compilation cache and one undisturbed run for the whole suite, on one worker: two cores serve one run at a time."""

import dataclasses

import pytest

from chaos import kills
from chaos.runs import EVAL_EVERY, EVERY, STEPS


@pytest.fixture(scope="session")
def compiled(tmp_path_factory):
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="session")
def unbroken(tmp_path_factory, compiled):
    return kills.unbroken(tmp_path_factory.mktemp("chaos"), compiled, STEPS, EVERY, EVAL_EVERY)


@pytest.fixture
def another(unbroken, tmp_path):
    """The unbroken run's command in a workdir of the test's own."""
    return dataclasses.replace(unbroken, workdir=tmp_path / "run")
