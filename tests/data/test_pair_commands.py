"""The commands on data where these are pictures with captions: what they print, draw and leave."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from pretrainx.cli.main import main
from pretrainx.data import manifest
from pretrainx.data.prepared_pairs import open_pairs
from pretrainx.data.tokenizer import Tokenizer
from toys.archives import FILES, entry, make


@pytest.fixture
def config(tmp_path):
    values = {
        "objective": {"name": "clip"},
        "model": {
            "name": "dual_encoder",
            "image": {"name": "vit", "patch": 4, "width": 8, "depth": 1, "heads": 2},
            "text": {"width": 8, "depth": 1, "heads": 2},
            "embedding": 8,
        },
        "data": {
            "name": "pairs",
            "limit": 40,
            "size": 8,
            "held_out": 0.2,
            "vocab_size": 300,
            "length": 16,
            "captions": 3,
        },
        "schedule": {"warmup": 1},
        "train": {"steps": 4, "batch_size": 8},
    }
    path = tmp_path / "pairs.json"
    path.write_text(json.dumps(values))
    return path


def run(capsys, *words):
    """(exit code, stdout, stderr)"""
    code = main(list(words))
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_pairs_are_prepared_drawn_and_verified(config, tmp_path, capsys):
    data, sheet = tmp_path / "data", tmp_path / "batch.png"
    code, out, _ = run(capsys, "data", "prepare", f"--config={config}", f"--output={data}")
    assert code == 0 and "8 x 8 x 3, 8 classes" in out and f"--config.data.cache={data}" in out
    pairs = open_pairs(data)
    facts = pairs.meta["splits"]["train"]["captions"]
    assert "train: height x width in the source 8 x 8 to 8 x 8, median side 8; 0 not square" in out
    row = next(line for line in out.splitlines() if re.match(r" *train +160 ", line)).split()
    assert row[1:-1] == ["160", f"{facts['tokens']:,}", "0", str(facts["cut"]), "at", "16", str(facts["duplicates"])]
    assert f"vocabulary 300, tokenizer {pairs.tokenizer.digest[:12]}" in out

    words = ("data", "inspect", f"--config={config}", "--step=1", f"--config.data.cache={data}", "--rows=3")
    code, out, _ = run(capsys, *words, f"--output={sheet}")
    assert code == 0 and f"{sheet}: 3 pictures" in out
    numbers = [int(number) for number in re.findall(r"^row \d: number (\d+), \w+$", out, re.MULTILINE)]
    said = re.findall(r"^caption  (.+)$", out, re.MULTILINE)
    assert said == [text for number in numbers for text in pairs.captions("train")[number]] and len(said) == 12
    seen = re.findall(r"^inputs tokens +<bos>(.+?)<eos>", out, re.MULTILINE)
    assert len(seen) == 3 and all(any(text.startswith(each) for text in said) for each in seen)
    drawn = np.asarray(Image.open(sheet))
    assert (drawn[:256:32, :256:32] == pairs.arrays("train")[0][numbers[0]]).all()

    code, out, _ = run(capsys, "data", "verify", f"--path={data}")
    assert code == 0 and "160 captions" in out and "is whole" in out
    path = data / "test.captions.tokens.bin"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    code, _, err = run(capsys, "data", "verify", f"--path={data}")
    assert code == 3 and str(path) in err


def test_the_tokenizer_of_captions(config, tmp_path, capsys):
    code, out, _ = run(capsys, "data", "tokenizer", f"--config={config}", f"--output={tmp_path / 't.json'}")
    assert code == 0 and "300 ids" in out and "bytes of held-out text" in out
    assert Tokenizer.load(tmp_path / "t.json", ("bos",)).vocabulary.size == 300


def test_archives_at_hand_are_named_with_commas(tmp_path, capsys, monkeypatch):
    first = make(tmp_path / "a.tgz")
    second = make(tmp_path / "b.tgz", {"package/data/c.txt": FILES["package/data/a.txt"]})
    known = entry(second)["mini"].archives
    row = entry(first, beside=known, counts=(("files", 3, 3),))["mini"]
    monkeypatch.setitem(manifest.ENTRIES, "mini", row)
    words = ("data", "fetch", "mini", f"--dest={tmp_path / 'sets'}")
    code, _, err = run(capsys, *words, f"--from={first}")
    assert code == 2 and "made from 2 archives" in err and "commas" in err
    code, out, _ = run(capsys, *words, f"--from={first},{second}")
    assert code == 0 and "3 files" in out and (tmp_path / "sets" / "mini" / "c.txt").is_file()


def test_a_comma_is_a_part_of_the_path_of_the_only_archive(tmp_path, capsys, monkeypatch):
    archive = make(tmp_path / "a,b.tgz")
    monkeypatch.setitem(manifest.ENTRIES, "mini", entry(archive)["mini"])
    words = ("data", "fetch", "mini", f"--dest={tmp_path / 'sets'}", f"--from={archive}")
    code, out, err = run(capsys, *words)
    assert code == 0, err
    assert (tmp_path / "sets" / "mini" / "MANIFEST.json").is_file()
    code, _, err = run(capsys, "data", "fetch", "nothing", f"--dest={tmp_path}", f"--from={archive}")
    assert code == 2 and "unknown set 'nothing'" in err
