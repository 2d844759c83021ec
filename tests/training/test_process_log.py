"""What a process other than 0 writes: warnings and its end, in one file of its own; nothing where nothing is amiss."""

import pytest

from pretrainx.core.errors import DataError
from pretrainx.training.writers import ProcessLog


def test_nothing_amiss_leaves_nothing(tmp_path):
    with ProcessLog(tmp_path, 3) as log:
        log.metrics({"step": 1, "train/loss": 2.0})
        log.event("saved", step=1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (DataError("no rows", why="empty"), ["error: no rows  (exit 3)", "  why   empty"]),
        (KeyError("x"), ["KeyError: 'x'"]),
    ],
)
def test_warnings_and_the_end(tmp_path, error, shown):
    with pytest.raises(type(error)), ProcessLog(tmp_path, 3) as log:
        log.event("warning", step=2, text="odd")
        raise error
    (path,) = tmp_path.iterdir()
    lines = path.read_text().splitlines()
    assert path.name == "process-3.log" and lines[0].endswith(" warning: odd")
    assert all(any(line.endswith(text) for line in lines[1:]) for text in shown)
