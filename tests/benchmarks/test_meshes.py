"""The table of benchmarks/meshes.py, held to its bounds."""

import pytest

from benchmarks.meshes import measure


@pytest.mark.slow
@pytest.mark.xdist_group("meshes")
def test_every_mesh_and_microbatch_count_is_one_run(tmp_path):
    for row in measure(tmp_path):
        assert row["gradients"] < 1e-9 and row["states"] < 1e-9, row
        assert row["losses"] < 1e-5, row
        assert row["share"] <= 1.1, row
