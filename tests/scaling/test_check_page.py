"""The page and the record of a check: made of numbers alone, strict JSON even where runs diverged."""

import json

import numpy as np

from pretrainx.scaling import check_page
from pretrainx.scaling.coordinates import Coordinates, slopes_of
from pretrainx.scaling.lr_transfer import Transfer

WIDTHS = (64, 128, 256)


def test_coordinates_on_a_page(tmp_path):
    """A chart for each step; a tensor that is zero at the start is not in the first."""
    sizes = np.ones((3, 2, 2)) * np.array(WIDTHS)[:, None, None] ** 0.1
    sizes[:, 0, 1] = 0
    found = Coordinates(WIDTHS, ("embedding", "logits"), sizes, slopes_of(WIDTHS, sizes))
    page = check_page.write(tmp_path, "coordcheck", {"as configured": found}, {"seed": 0}).read_text()
    assert page.count("<svg") == 2 and "PASS: the largest |slope| at step 2 is 0.10" in page and "http" not in page
    record = json.loads((tmp_path / "coordcheck.json").read_text())["found"]["as configured"]
    assert record["passes"] and np.allclose(record["slopes"], [[0.1, 0], [0.1, 0.1]])


def test_transfer_on_a_page(tmp_path):
    """What diverged is null, not a word that JSON does not know, and takes nothing from the picture."""
    curves = np.linspace(3, 2, 10) + np.array([0.2, 0.0, 0.1, 0.5])[None, :, None] + np.zeros((3, 4, 10))
    curves[:, 3, 5:] = np.inf
    found = Transfer(WIDTHS, tuple(2.0**power for power in range(-9, -5)), curves)
    page = check_page.write(
        tmp_path, "lr_transfer", {"as configured": found, "standard": found}, {"seed": 0}
    ).read_text()
    assert page.count("<svg") == 4 and page.count("PASS: the best rate moves by 0 places") == 2
    strict = lambda word: (_ for _ in ()).throw(AssertionError(word))
    record = json.loads((tmp_path / "lr_transfer.json").read_text(), parse_constant=strict)["found"]["standard"]
    assert record["best"] == [2.0**-8] * 3 and record["reached"][0][3] is None
