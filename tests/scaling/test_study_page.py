"""The page of a study, and what its charts are made of."""

import re

import pytest

from pretrainx.scaling import fitting, holdout, page, pictures
from pretrainx.scaling.fit_options import FitOptions
from pretrainx.scaling.fits import Dropped
from scaling.synthetic import isoflop


@pytest.mark.slow
@pytest.mark.parametrize("method", ["parametric", pytest.param("isoflop", marks=pytest.mark.rotated), "curve"])
def test_a_page_needs_no_network_and_shows_what_there_is(tmp_path, method):
    table = isoflop(noise=0.003)
    options = FitOptions(method=method, starts=20 if method == "parametric" else 0, replicates=60)
    fit = fitting.fit(table, options, (Dropped(3, "lost-run", "status", "the run is 'diverged', not done"),))
    held = holdout.roll(table, options)
    scene = pictures.Scene(fit, table, 1e21, held)
    text = page.write(tmp_path / "a" / "page.html", "ladder", scene, chosen={"its own choices": held}).read_text()
    assert not re.search(r'(?:src|href)="(?!#)|url\((?!#)|@import|<script', text)
    assert "lost-run" in text and "diverged" in text and fit.digest in text and "Held out" in text
    charts = [title for title in re.findall(r'aria-label="([^"]*)"', text)]
    assert {"isoFLOP curves", "N*(C)", "D*(C)", "L*(C)", "D*/N*(C)", "Predicted against measured"} <= set(charts)
    assert ("L(N, D)" in charts) == (method == "parametric")
    assert any(title.startswith("over ln") or title == "over N" for title in charts) == (method != "curve")
    assert sum(title.startswith(("a = ", "N* at")) for title in charts) == 2
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))


@pytest.mark.slow
def test_budgets_without_a_minimum_are_marked():
    table = isoflop()
    best = table.parameters[table.budget == 1e18][4]
    some = table.take((table.budget > 1e18) | (table.parameters >= best))
    fit = fitting.fit(some, FitOptions(method="isoflop", replicates=0))
    scene = pictures.Scene(fit, some, 1e21)
    assert [bool(one.reason) for one in scene.minima] == [True, False, False, False, False]
    assert len(scene.outlying) == 3 and "Replicates" not in pictures.groups(scene)
