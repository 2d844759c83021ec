"""One small trained run that the tests of this directory look at; each that changes it takes a copy."""

import shutil

import numpy as np
import pytest

from pretrainx.runs.train import train

STEPS = 10


@pytest.fixture(scope="session")
def text(tmp_path_factory):
    """Six documents of words drawn at random."""
    directory = tmp_path_factory.mktemp("text")
    rng = np.random.default_rng(1)
    words = ["alpha", "beta", "gamma", "delta", "(", ")", "=", "1", "\n"]
    for number in range(6):
        (directory / f"{number}.txt").write_text(" ".join(rng.choice(words, 800)))
    return directory


@pytest.fixture(scope="session")
def make_values(text):
    """The run's config, with sections laid over it."""

    def make(**changes):
        values = {
            "model": {"width": 32, "depth": 2, "heads": 2, "dropout": 0.1},
            "data": {"source": "text", "paths": [str(text)], "tokenizer": "bytes", "length": 32, "held_out": 0.3},
            "schedule": {"peak": 3e-3, "warmup": 2},
            "ema": {"decay": 0.8},
            "train": {"steps": STEPS, "batch_size": 8, "log_every": 1},
            "checkpoint": {"every": 4, "keep": 3},
            "evals": {"tokens": 256},
        }
        for section, part in changes.items():
            values[section] = {**values.get(section, {}), **part} if isinstance(part, dict) else part
        return values

    return make


@pytest.fixture(scope="session")
def trained(make_values, tmp_path_factory):
    """The workdir of a run of ten steps, saved after 4, 8 and 10. Not to be written to."""
    workdir = tmp_path_factory.mktemp("trained") / "run"
    assert train(make_values(), workdir, say=lambda line: None) == 0
    return workdir


@pytest.fixture
def copied(trained, tmp_path):
    """A run of one's own to spoil."""
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


def contents(directory):
    """{file: bytes} of everything below a directory."""
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.fixture
def untouched(trained):
    """Checks at the end of a test that the shared run is as it was, to the byte."""
    before = contents(trained)
    yield trained
    assert contents(trained) == before
