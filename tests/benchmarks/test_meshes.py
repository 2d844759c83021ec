"""A part of the table of benchmarks/meshes.py, held to its bounds; the contract suite covers the other meshes."""

import pytest

from benchmarks.meshes import measure


@pytest.mark.slow
@pytest.mark.rotated(alone=True)
@pytest.mark.xdist_group("meshes")
def test_a_mesh_and_microbatches_are_one_run(tmp_path):
    for row in measure(tmp_path, ((1, 1, 1), (2, 2, 2)), (1, 4)):
        assert row["gradients"] < 1e-9 and row["states"] < 1e-9, row
        assert row["losses"] < 1e-5, row
        assert row["share"] <= 1.1, row
