"""Charts of numbers: axes in powers of two."""

import pytest

from pretrainx.report.charts import Axis, Series, chart


@pytest.mark.parametrize("widths", [(70, 100), (64, 128), (64, 8192), (2.0**-30, 2.0**30)])
def test_axes_in_powers_of_two(widths):
    """Also where none lies inside the axis, or so many that only some have a tick."""
    assert chart("slopes", Axis("width", "log2"), Axis("loss"), [Series(widths, (1.0, 2.0))]).count("<svg") == 1
