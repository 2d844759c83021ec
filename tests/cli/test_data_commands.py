"""The commands on data, as typed: what they print, what they leave, and their exit codes."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from pretrainx.cli.main import COMMANDS, main
from pretrainx.data import fetch, manifest
from pretrainx.data.prepared_images import open_images
from pretrainx.data.shapes import CLASSES
from pretrainx.data.tokenizer import Tokenizer
from toys.archives import entry, make


@pytest.fixture
def config(tmp_path):
    """A config file whose corpus is two parts of small texts."""
    for part in ("prose", "code"):
        (tmp_path / part).mkdir()
        for index in range(25):
            (tmp_path / part / f"{part}{index}.txt").write_text(f"{part} says {index * 7 % 11} and\n" * (index + 2))
    part = lambda name, weight: {"name": name, "weight": weight, "source": "text", "paths": [str(tmp_path / name)]}
    values = {
        "model": {"name": "decoder", "width": 16, "depth": 1, "heads": 2},
        "data": {
            "name": "mixture",
            "parts": [part("prose", 3), part("code", 1)],
            "vocab_size": 270,
            "length": 24,
            "held_out": 0.3,
            "packing": "documents",
        },
        "schedule": {"warmup": 1},
        "train": {"steps": 4, "batch_size": 8, "eval_every": 4, "log_every": 1},
    }
    path = tmp_path / "config.json"
    path.write_text(json.dumps(values))
    return path


def run(capsys, *words):
    """(exit code, stdout, stderr)"""
    code = main(list(words))
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_the_commands_and_their_flags_are_frozen():
    forms = {name: [flag.form() for flag in row.flags] for name, row in COMMANDS.items() if name.startswith("data ")}
    assert forms == {
        "data tokenizer": ["--config=FILE[:ARG]", "--output=tokenizer.json"],
        "data prepare": ["--config=FILE[:ARG]", "--output=DIR"],
        "data inspect": ["--config=FILE[:ARG]", "--workdir=DIR", "--step=N", "--rows=K", "--output=FILE.png"],
        "data verify": ["--path=DIR"],
        "data fetch": ["--dest=DIR", "--from=ARCHIVE", "--list"],
    }


def test_tokenizer(config, tmp_path, capsys):
    output = tmp_path / "made" / "tokenizer.json"
    code, out, _ = run(capsys, "data", "tokenizer", f"--config={config}", f"--output={output}")
    assert code == 0 and Tokenizer.load(output).vocabulary.size == 270
    ratio, held_out = re.search(r"([\d.]+) bytes per token on ([\d,]+) bytes of held-out", out).groups()
    assert 1 < float(ratio) < 6 and int(held_out.replace(",", "")) > 100 and f"--config.data.tokenizer={output}" in out
    # It is the one that a run would train, and a file of that name is not replaced.
    assert run(capsys, "data", "prepare", f"--config={config}", f"--output={tmp_path / 'data'}")[0] == 0
    assert Tokenizer.load(tmp_path / "data" / "tokenizer.json").digest == Tokenizer.load(output).digest
    assert run(capsys, "data", "tokenizer", f"--config={config}", f"--output={output}")[0] == 2


def test_prepare_verify_and_train_on_it(config, tmp_path, capsys):
    data = tmp_path / "data"
    code, out, _ = run(capsys, "data", "prepare", f"--config={config}", f"--output={data}")
    assert code == 0 and "prepared already" not in out and f"--config.data.cache={data}" in out
    rows = [line.split() for line in out.splitlines() if re.match(r" *(prose|code) ", line)]
    assert [row[:2] for row in rows] == [[p, s] for p in ("prose", "code") for s in ("train", "held_out")]
    meta = json.loads((data / "data.json").read_text())
    facts = meta["parts"][1]["splits"]["train"]
    assert rows[2][2:5] == [f"{facts[name]:,}" for name in ("documents", "bytes", "tokens")]
    assert rows[2][6:] == [f"{facts['rows']:,}", f"{facts['fill']:.2%}", facts["digest"][:12]]
    before = (data / "data.json").stat().st_mtime_ns
    code, out, _ = run(capsys, "data", "prepare", f"--config={config}", f"--output={data}")
    assert code == 0 and "prepared already" in out and (data / "data.json").stat().st_mtime_ns == before
    code, out, _ = run(capsys, "data", "verify", f"--path={data}")
    assert code == 0 and "is whole" in out and out.count("rows") == 4
    code, out, _ = run(
        capsys, "train", f"--config={config}", f"--workdir={tmp_path / 'run'}", f"--config.data.cache={data}"
    )
    assert code == 0 and not (tmp_path / "run" / "data").exists()
    assert re.search(r"epochs of each part: prose [\d.]+, code [\d.]+", out)
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    split = {name: last[f"eval/held_out/{name}loss"] for name in ("", "prose/", "code/")}
    assert min(split["prose/"], split["code/"]) < split[""] < max(split["prose/"], split["code/"])

    path = data / "code" / "train.pieces.bin"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    code, _, err = run(capsys, "data", "verify", f"--path={data}")
    assert code == 3 and str(path) in err


def test_inspect_shows_the_batch_that_the_run_reads(config, tmp_path, capsys):
    run_directory = tmp_path / "run"
    assert run(capsys, "train", f"--config={config}", f"--workdir={run_directory}")[0] == 0
    code, out, _ = run(capsys, "data", "inspect", f"--workdir={run_directory}", "--step=2", "--rows=8")
    assert code == 0
    records = [json.loads(line) for line in (run_directory / "metrics.jsonl").read_text().splitlines()]
    logged = {record["step"]: record["batch_hash"] for record in records if "batch_hash" in record}
    assert f"step 2: 8 rows, batch hash {logged[3]}" in out  # the batch of the update from step 2 to 3
    rows = re.findall(r"^row \d: number \d+ of (\w+)\nids  ([\d ]+)\n", out, re.MULTILINE)
    assert [part for part, _ in rows].count("prose") == 6 and len(rows) == 8
    assert all(len(ids.split()) == 25 for _, ids in rows)
    assert "<eos>" in out and re.search(r"batch segments +1 x \d+, 2 x ", out) and "weight of nll" in out
    # The same from the config, in a temporary place.
    here = sorted(tmp_path.iterdir())
    code, again, _ = run(capsys, "data", "inspect", f"--config={config}", "--step=2", "--rows=8")
    assert code == 0 and again.endswith(out) and sorted(tmp_path.iterdir()) == here
    (run_directory / "data").rename(tmp_path / "elsewhere")
    code, _, err = run(capsys, "data", "inspect", f"--workdir={run_directory}", "--step=2")
    assert code == 3 and "data are missing" in err and not (run_directory / "data").exists(), "nothing is prepared anew"
    for words in ((), (f"--config={config}", f"--workdir={run_directory}")):
        assert run(capsys, "data", "inspect", "--step=1", *words)[0] == 2


@pytest.mark.slow
def test_a_mixture_goes_on_where_it_stopped(config, tmp_path, capsys):
    """Rows are those of the unbroken run; with other weights they would not be, so that is refused."""

    def train(name, steps, data="data"):
        words = (
            f"--config.data.cache={tmp_path / data}",
            f"--config.train.steps={steps}",
            "--config.train.eval_every=0",
        )
        code, out, err = run(capsys, "train", f"--config={config}", f"--workdir={tmp_path / name}", *words)
        records = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        # The last step is evaluated, in a record of its own.
        return code, [record["batch_hash"] for record in records if "batch_hash" in record], out + err

    _, unbroken, _ = train("unbroken", 6)
    assert train("broken", 3)[:2] == (0, unbroken[:3])
    code, hashes, out = train("broken", 6)
    assert (code, hashes) == (0, unbroken) and "resumed from step 3" in out and len(set(unbroken)) == 6
    values = json.loads(config.read_text())
    values["data"]["parts"][1]["weight"] = 2
    values["data"]["tokenizer"] = str(tmp_path / "data" / "tokenizer.json")
    config.write_text(json.dumps(values))
    code, hashes, out = train("broken", 8, "other")
    assert (code, hashes) == (3, unbroken) and "weight" in out


def test_fetch(tmp_path, capsys, monkeypatch):
    archive = make(tmp_path / "mini.tgz")
    for name, row in entry(archive).items():
        monkeypatch.setitem(manifest.ENTRIES, name, row)
    code, out, _ = run(capsys, "data", "fetch", "--list")
    assert code == 0 and {"brown", "moses", "mini"} <= {line.split()[0] for line in out.splitlines()}
    words = ("data", "fetch", "mini", f"--dest={tmp_path / 'sets'}", f"--from={archive}")
    code, out, _ = run(capsys, *words)
    assert code == 0 and "--config.data.source=text" in out and "CC0" in out
    code, out, _ = run(capsys, *words)
    assert code == 0 and "there already" in out
    assert run(capsys, "data", "verify", f"--path={tmp_path / 'sets' / 'mini'}")[0] == 0
    (tmp_path / "sets" / "mini" / "a.txt").write_text("other")
    assert run(capsys, "data", "verify", f"--path={tmp_path / 'sets' / 'mini'}")[0] == 3
    code, _, err = run(capsys, "data", "fetch")
    assert code == 2 and "missing NAME" in err and "--dest" in err
    code, _, err = run(capsys, "data", "fetch", "mini", "brown", f"--dest={tmp_path}", f"--from={archive}")
    assert code == 2 and "one set" in err
    assert fetch.ENTRIES is manifest.ENTRIES


@pytest.fixture
def pictures(tmp_path):
    """A config file of generated pictures."""
    values = {
        "objective": {"name": "simclr"},
        "model": {"name": "resnet", "width": 4, "stages": [1, 1]},
        "data": {"name": "images", "limit": 40, "size": 8, "held_out": 0.2},
        "schedule": {"warmup": 1},
        "train": {"steps": 4, "batch_size": 8},
    }
    path = tmp_path / "pictures.json"
    path.write_text(json.dumps(values))
    return path


def test_pictures_are_prepared_drawn_and_verified(pictures, tmp_path, capsys, monkeypatch):
    data, sheet = tmp_path / "data", tmp_path / "sheets" / "batch.png"
    code, out, _ = run(capsys, "data", "prepare", f"--config={pictures}", f"--output={data}")
    assert code == 0 and f"--config.data.cache={data}" in out and "8 x 8 x 3, 8 classes" in out
    meta = json.loads((data / "data.json").read_text())
    rows = [line.split() for line in out.splitlines() if re.match(r" *(train|held_out|test) +\d", line)]
    assert [row[:2] for row in rows] == [[s, str(meta["splits"][s]["pictures"])] for s in ("train", "held_out", "test")]
    before = (data / "data.json").stat().st_mtime_ns
    code, out, _ = run(capsys, "data", "prepare", f"--config={pictures}", f"--output={data}")
    assert code == 0 and "prepared already" in out and (data / "data.json").stat().st_mtime_ns == before

    words = ("data", "inspect", f"--config={pictures}", "--step=3", f"--config.data.cache={data}")
    code, out, _ = run(capsys, *words, "--rows=5", f"--output={sheet}")
    assert code == 0 and "step 3: 8 rows, batch hash" in out and f"{sheet}: 5 pictures, each above 2" in out
    shown = re.findall(r"^row \d: number (\d+), (\w+)$", out, re.MULTILINE)
    labels = open_images(data).arrays("train")[1]
    assert [name for _, name in shown] == [CLASSES[labels[int(number)]] for number, _ in shown] and len(shown) == 5
    drawn = np.asarray(Image.open(sheet))
    number, first = int(shown[0][0]), drawn[:64, :64]
    assert (first[::8, ::8] == open_images(data).arrays("train")[0][number]).all(), "the first is drawn as it is stored"
    monkeypatch.chdir(tmp_path)
    assert run(capsys, *words)[0] == 0 and (tmp_path / "batch-3.png").is_file()

    code, out, _ = run(capsys, "data", "verify", f"--path={data}")
    assert code == 0 and "is whole" in out and "train: 40 pictures of 8 x 8 x 3" in out
    path = data / "test.images.bin"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    code, _, err = run(capsys, "data", "verify", f"--path={data}")
    assert code == 3 and str(path) in err
    code, _, err = run(capsys, "data", "tokenizer", f"--config={pictures}", f"--output={tmp_path / 'x.json'}")
    assert code == 2 and "pictures have no tokenizer" in err


def test_only_what_was_normalised_is_drawn_denormalised(pictures, tmp_path, capsys):
    """What BEiT's tokenizer reads is the crop that the model reads, in [0, 1]."""
    values = json.loads(pictures.read_text()) | {
        "objective": {"name": "beit", "clusters": 4, "min_block": 2, "augment": {"name": "none"}},
        "model": {"name": "vit", "patch": 2, "width": 8, "depth": 1, "heads": 2, "mask_token": True},
    }
    pictures.write_text(json.dumps(values))
    words = ("data", "inspect", f"--config={pictures}", "--step=0", "--rows=1", f"--output={tmp_path / 'x.png'}")
    code, out, _ = run(capsys, *words)
    assert code == 0 and "each above 2 as the model sees it" in out
    stored, cells, seen = np.asarray(Image.open(tmp_path / "x.png"))[: 3 * 64].reshape(3, 64, 64, 3).astype(int)
    assert np.abs(cells - stored).max() <= 1 and np.abs(seen - stored).max() <= 1


def test_text_is_not_drawn(config, tmp_path, capsys):
    code, _, err = run(capsys, "data", "inspect", f"--config={config}", "--step=0", f"--output={tmp_path / 'x.png'}")
    assert code == 2 and "--output" in err and not (tmp_path / "x.png").exists()
