"""Docstrings of the installed Python as labelled texts: real ones, whole, each of the package that it is from."""

import asyncio.base_events
import importlib.util
import inspect

import pytest

from pretrainx.core.errors import ConfigError
from pretrainx.data.docstrings import PACKAGES, docstrings
from pretrainx.data.labelled import LabelledConfig, prepare_labelled


def test_first_paragraphs_with_their_package():
    found = list(docstrings())
    assert {record["label"] for _, record in found} == {name for name in PACKAGES if importlib.util.find_spec(name)}
    expected = " ".join(inspect.getdoc(asyncio.base_events.BaseEventLoop.create_future).split())
    line = asyncio.base_events.BaseEventLoop.create_future.__code__.co_firstlineno
    assert (f"asyncio/base_events.py:{line}", expected) in {(where, record["text"]) for where, record in found}
    assert all(record["module"].startswith(record["label"]) and "\n" not in record["text"] for _, record in found)


def test_as_labelled_data(tmp_path):
    """The file as the group: no module is in two splits."""
    data = prepare_labelled(
        LabelledConfig(source="stdlib", group="module", tokenizer="bytes"), tmp_path / "data", print
    )
    assert data.about.classes == tuple(sorted(data.about.classes)) and len(data.about.classes) >= 5
    counts = [data.meta["splits"][split]["examples"] for split in ("train", "held_out")]
    assert sum(counts) == len(list(docstrings())) and min(counts) > 50


def test_it_takes_no_paths(tmp_path):
    with pytest.raises(ConfigError, match="takes no paths"):
        prepare_labelled(LabelledConfig(source="stdlib", paths=("x",)), tmp_path / "data", print)
