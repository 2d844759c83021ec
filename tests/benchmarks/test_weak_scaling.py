"""benchmarks/weak_scaling.py: its bytes by hand, and what scaling does to them."""

import pytest

from benchmarks.weak_scaling import lines, measure


def test_bytes_of_llama_8b_by_hand():
    """Blocks of 218,103,808 weights gathered twice in bfloat16, scattered once in float32; two tables of 525 million."""
    rows = measure("8b", "v5p", 2)
    table, blocks = 128_256 * 4096, 32 * 218_103_808
    assert [row.chips for row in rows] == [8, 64, 512, 4096, 6144]
    gathered = [row.sent["all-gather", "fsdp"] for row in rows]
    assert gathered[1:] == [pytest.approx(63 / 64 * (2 * 2 * blocks + (4 + 2) * table))] * 4
    scattered = [row.sent["reduce-scatter", "fsdp"] for row in rows]
    assert scattered[0] == pytest.approx(7 / 8 * 4 * (blocks + 2 * table))
    assert rows[-1].sent["all-reduce", "data"] == pytest.approx(2 * 95 / 96 * 4 * (blocks + 2 * table) / 64)
    assert all(row.fits and row.floor.across == 0 and row.floor.bound == "compute" for row in rows)
    # Blocks cost 8 where MFU counts 6.
    assert 0.75 < rows[0].floor.mfu < 0.8


def test_slices_add_the_network_and_nothing_else():
    rows = measure("70b", "v5e", 1)
    assert [row.fits for row in rows[:3]] == [False, False, True]
    one, *several = rows[2:]
    assert one.floor.across == 0 and one.mesh == {"data": 1, "fsdp": 256}
    assert all(row.floor.inside == one.floor.inside for row in several)
    across = [row.floor.across for row in several]
    assert across == sorted(across) and across[-1] < 2 * across[0]
    text = "\n".join(lines("70b", "v5e", 8192, rows))
    assert "24*v5e:16x16  6144   256 x 24" in text and text.count("the state does not fit") == 2
