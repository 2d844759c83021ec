"""The report: self-contained, escaped, complete, and clear about what is missing."""

import base64
import io
import json
import math
import time
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from pretrainx.core.errors import ConfigError, DataError
from pretrainx.report.curves import running_mean
from pretrainx.report.page import write
from pretrainx.report.read import read_run, read_runs

HOSTILE = "<script>alert('x')</script> & \"quoted\""


def lines(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def make(directory, rate=3e-4, steps=80):
    (directory / "samples").mkdir(parents=True)
    train = {"steps": 100, "batch_size": 8}
    config = {"seed": 0, "train": train, "optimizer": {"name": "adam", "learning_rate": rate}, "note": HOSTILE}
    (directory / "config.json").write_text(json.dumps(config))
    records = []
    for step in range(1, steps + 1):
        speed = {"perf/tokens_per_s": 41200, "perf/mfu": 0.381, "perf/data_wait": 0.0, "wall": 2.0 * step}
        loss = "nan" if step == 7 else 3 + math.exp(-step / 5)
        records.append({"step": step, "train/loss": loss, "train/grad_norm": 1 / step, "train/lr": rate, **speed})
        if step % 20 == 0:
            held_out = {"eval/held_out/loss": 3.125, "eval/held_out/bits_per_byte": 1.0625, "eval/trigram/loss": 4.5}
            records.append({"step": step, **held_out})
    lines(directory / "metrics.jsonl", records)
    events = [{"kind": "start", "time": 1.7e9, "parameters": 124_439_808}]
    events += [{"kind": "saved", "time": 1.7e9 + step, "step": step} for step in range(0, steps, 10)]
    events += [{"kind": "skipped", "time": 1.7e9, "step": 7, "reason": HOSTILE}]
    lines(directory / "events.jsonl", events)
    (directory / "samples" / "step_20.txt").write_text("older text")
    (directory / "samples" / "step_100.txt").write_text(f"newest {HOSTILE}")
    return directory


class Page(HTMLParser):
    """Checks that tags are balanced, and collects tags, attributes and text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    return [make(root / "first"), make(root / "second", rate=1e-3, steps=100)]


@pytest.fixture(scope="module")
def single(runs, tmp_path_factory):
    return write(tmp_path_factory.mktemp("page") / "deep" / "one.html", runs[:1]).read_text()


def test_the_page_needs_no_network_and_no_script(single):
    page = Page(single)
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert "http" not in single and "url(" not in single.replace("url(#", "") and "@import" not in single
    references = [value for name, value in page.attributes if name in ("href", "xlink:href", "src")]
    assert references and all(value.startswith("#") for value in references)


def test_ids_of_the_figures_do_not_meet(single):
    page = Page(single)
    known = {value for name, value in page.attributes if name == "id"}
    identifiers = [value for name, value in page.attributes if name == "id"]
    assert len(identifiers) == len(known)
    for name, value in page.attributes:
        if name == "xlink:href":
            assert value[1:] in known


def test_text_is_escaped(single):
    assert "<script>" not in single and "&lt;script&gt;" in single
    assert "".join(Page(single).text).count(HOSTILE) == 3  # in a sample, in an event and in the config


def test_key_figures(single):
    text = " ".join(" ".join(Page(single).text).split())
    for figure in ("80 of 100", "3.000", "3.125", "1.062", "4.500", "41.2k", "38.1%", "2m40s", "124.4M"):
        assert figure in text, figure
    for name in ("final train loss", "held-out loss", "bits per byte", "trigram loss", "tokens/s", "MFU"):
        assert name in text
    assert "examples/s" not in text


def test_curves_samples_events_and_config(single):
    labels = [value for name, value in Page(single).attributes if name == "aria-label"]
    assert labels[:5] == ["Loss", "Bits per byte, held out", "Gradient norm", "Learning rate", "Tokens per second"]
    assert single.index("newest ") < single.index("older text")
    assert "<b>8</b> saved, last at step 70" in single and "<b>1</b> skipped" in single
    assert "learning_rate" in single and "0.0003" in single


def test_evaluations_and_accuracy_where_there_are_some(runs, single, tmp_path):
    """A column for each step, a figure that a step lacks is a dash; names are escaped."""
    assert "Evaluations" not in single
    run = make(tmp_path / "run", steps=10)
    evals = [{"step": 5, "eval/held_out/loss": 2.5}, {"step": 9, "eval/choices/pmi": 0.75, "eval/<b>": "nan"}]
    lines(run / "evals.jsonl", [*evals, {"step": 9, "eval/choices/pmi": 0.5}])
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 10, "eval/held_out/metric/accuracy": 0.25}) + "\n")
    text = write(tmp_path / "page.html", [run]).read_text()
    table = text[text.index("<h2>Evaluations") : text.index("<h2>Samples")]
    cells = [part.split("</td>")[0] for part in table.split("<td>")[1:]]
    assert [cells[row + 1 : row + 3] for row in (0, 3, 6)] == [
        ["2.5", "&ndash;"],
        ["&ndash;", "0.5"],
        ["&ndash;", "nan"],
    ]
    assert "step 5" in table and "step 9" in table and "&lt;b&gt;" in table
    labels = [value for name, value in Page(text).attributes if name == "aria-label"]
    assert "held-out accuracy" in text and "25.0%" in text and "held-out accuracy" not in single
    assert "Accuracy, held out (%)" in labels and 'aria-label="Accuracy' not in single


def picture(path, size=(28, 14), caption=""):
    text = PngInfo()
    text.add_itxt("Caption", caption)
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0]), dtype=np.uint8)
    Image.fromarray(pixels).save(path, pnginfo=text)
    return path.read_bytes()


def test_pictures_stand_in_the_page_itself(runs, single, tmp_path):
    """The newest of each name, byte for byte, enlarged by a whole number and sharp; captions are escaped."""
    assert "<h2>Pictures" not in single
    run = make(tmp_path / "run", steps=3)
    samples = run / "samples"
    picture(samples / "00000020-neighbours.png")
    newest = picture(samples / "00000100-neighbours.png", (30, 14), HOSTILE)
    wide = picture(samples / "00000060-masks_seen.png", (700, 14))
    text = write(tmp_path / "page.html", [run]).read_text()
    page = Page(text)
    sources = [value for name, value in page.attributes if name == "src"]
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert [base64.b64decode(source.split(",")[1]) for source in sources] == [wide, newest]
    sizes = [value for name, value in page.attributes if name in ("width", "height")]
    assert sizes[-4:] == ["700", "14", "180", "84"]
    assert "image-rendering: pixelated" in text and "masks seen" in text and "step 100" in text
    assert "<script>" not in text and HOSTILE in "".join(page.text)
    assert {"script", "link", "iframe", "object"}.isdisjoint(page.tags)


def test_a_curve_for_every_read_out(tmp_path):
    """Their names tell how they were made, so they differ from run to run."""
    run = make(tmp_path / "run", steps=3)
    how = {"eval/knn/k20_t0.07_features_l2/test": 0.5, "eval/knn/k20_t0.07_features_l2/test/interval": 0.1}
    found = how | {"eval/probe/logistic<b>/test": 0.75, "train/metric/embedding_std": 0.9}
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 3, **found}) + "\n")
    labels = [value for name, value in Page(write(tmp_path / "page.html", [run]).read_text()).attributes]
    assert "Nearest neighbours (%): k20_t0.07_features_l2/test" in labels
    assert "Linear probe (%): logistic<b>/test" in labels and "Spread of embeddings" in labels
    assert not any("interval" in str(label) for label in labels)


def test_what_is_no_picture_is_left_out(tmp_path, monkeypatch):
    """Half written, of another format, too many pixels, too many bytes: the page is made without it."""
    run = make(tmp_path / "run", steps=3)
    samples = run / "samples"
    whole = picture(samples / "00000001-whole.png")
    (samples / "00000002-torn.png").write_bytes(whole[: len(whole) // 2])
    (samples / "00000002-text.png").write_text(HOSTILE)
    other = io.BytesIO()
    Image.new("L", (4, 4)).save(other, "GIF")
    (samples / "00000002-other.png").write_bytes(other.getvalue())
    Image.new("1", (12_000, 12_000)).save(samples / "00000002-bomb.png")
    picture(samples / "00000002-large.png", (200, 200))
    monkeypatch.setattr("pretrainx.report.read._PICTURE_BYTES", 30_000)
    found = read_run(run)
    assert [(each.name, each.step, each.width, each.height) for each in found.pictures] == [("whole", 1, 28, 14)]
    assert found.left_out == ["00000002-large.png"]
    page = Page(write(tmp_path / "page.html", [run]).read_text())
    assert "Too large for this page: samples/00000002-large.png" in page.text


def test_several_runs_show_what_differs(runs, tmp_path):
    text = write(tmp_path / "both.html", runs).read_text()
    page = Page(text)
    assert page.text.count("Config differences") == 1
    table = text[text.index("Config differences") : text.index("<h2>Samples")]
    assert "optimizer.learning_rate" in table and "0.0003" in table and "0.001" in table
    assert "batch_size" not in table and "seed" not in table
    assert text.count('class="swatch"') == 2


def test_runs_of_one_name_are_told_apart(tmp_path):
    paths = [make(tmp_path / name / "run", steps=3) for name in ("a", "b")]
    assert [run.name for run in read_runs(paths)] == [str(path) for path in paths]
    assert [run.name for run in read_runs(paths[:1])] == ["run"]


def test_a_run_that_is_still_going(tmp_path):
    path = make(tmp_path / "going", steps=2)
    for name in ("events.jsonl", "samples/step_20.txt", "samples/step_100.txt"):
        (path / name).unlink()
    with (path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "train/lo')
    assert [record["step"] for record in read_run(path).metrics] == [1, 2]
    text = write(tmp_path / "page.html", [path]).read_text()
    assert "2 of 100" in text and "<h2>Events" not in text and "<h2>Samples" not in text


def test_a_run_without_a_finite_value(tmp_path):
    path = make(tmp_path / "lost")
    lines(path / "metrics.jsonl", [{"step": 1, "train/loss": "nan", "train/grad_norm": "inf"}])
    assert "No metric that is drawn has a finite value yet." in write(tmp_path / "page.html", [path]).read_text()


@pytest.mark.parametrize("missing", ["", "config.json", "metrics.jsonl"])
def test_what_is_missing_is_named_with_the_command_that_makes_it(tmp_path, missing):
    path = tmp_path / "run"
    if missing:
        make(path, steps=2)
        (path / missing).unlink()
    with pytest.raises(DataError) as caught:
        write(tmp_path / "page.html", [path])
    error = caught.value
    assert error.exit_code == 3 and error.where == str(path / missing) and "pretrainx train --config=" in error.do
    assert not (tmp_path / "page.html").exists()


def test_a_broken_config_and_a_place_that_cannot_be_written(tmp_path, runs):
    path = make(tmp_path / "run", steps=2)
    (path / "config.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read"):
        write(tmp_path / "page.html", [path])
    (tmp_path / "taken").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        write(tmp_path / "taken" / "page.html", runs[:1])
    with pytest.raises(ConfigError, match="at least one run"):
        write(tmp_path / "page.html", [])


def test_the_running_mean_keeps_ends_and_constants():
    np.testing.assert_allclose(running_mean(np.full(100, 2.5)), 2.5)
    values = np.arange(200.0)
    np.testing.assert_allclose(running_mean(values)[:190], values[:190], atol=1e-9)


def test_a_long_run_is_quick_and_its_page_small(tmp_path):
    path = make(tmp_path / "long", steps=2)
    record = {"train/grad_norm": 1.0, "train/lr": 1e-3, "perf/tokens_per_s": 1e5}
    lines(path / "metrics.jsonl", [{"step": n, "train/loss": 3 + n % 7, **record} for n in range(20_000)])
    start = time.perf_counter()
    text = write(tmp_path / "page.html", [path]).read_text()
    assert time.perf_counter() - start < 10  # under 2 s on a quiet machine
    assert len(text) < 1_000_000
