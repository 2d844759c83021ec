"""The collapse alarm rings in real training of what collapses, as benchmarks/collapse.py watches it."""

import pytest

from benchmarks.collapse import watched


@pytest.mark.slow
@pytest.mark.rotated(alone=True)
@pytest.mark.parametrize("name", ["simsiam", "simclr"])
def test_an_ablated_run_is_called(name, tmp_path):
    """SimSiam without stop-gradient, SimCLR without negatives, within 200 steps; the first 100 are not judged."""
    pytest.importorskip("sklearn", reason="the digits are scikit-learn's: pip install 'pretrainx[test]'")
    step, *_ = watched(name, True, 0, 200, tmp_path / "run", tmp_path / "data")
    assert step is not None and 100 < step <= 200
