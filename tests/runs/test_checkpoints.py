"""ckpt list, inspect and verify: what they say of whole and of damaged checkpoints; they never write."""

import json

import numpy as np
import pytest

from pretrainx.core.errors import CheckpointError, ConfigError
from pretrainx.runs.checkpoints import inspected, listed, verified
from pretrainx.runs.disk import bytes_under, disk_need
from pretrainx.runs.replay import open_run
from pretrainx.training.restore import FormatError, digest, read_meta
from pretrainx.training.verify import read_leaf

pytestmark = pytest.mark.xdist_group("operate")


def said_of(command, *arguments):
    said = []
    assert command(*arguments, say=said.append) == 0
    return said


def test_list(untouched):
    header, *lines = said_of(listed, untouched)
    assert [line.split()[0] for line in lines] == ["4", "8", "10"] and header.startswith("step")
    last = json.loads((untouched / "metrics.jsonl").read_text().splitlines()[-1])["eval/held_out/loss"]
    assert f"{last:.4f}" in lines[-1] and "ago" in lines[0]


def test_list_names_what_is_damaged(copied):
    (copied / "checkpoints" / "4").rename(copied / "checkpoints" / "4.corrupt")
    (copied / "checkpoints" / "8" / "meta" / "metadata").write_text("{")
    (copied / "checkpoints" / "12.orbax-checkpoint-tmp-1").mkdir()
    text = "\n".join(said_of(listed, copied))
    assert "4.corrupt" in text and "set aside" in text and "damaged: a checkpoint has no readable meta" in text
    assert "cut short" in text


def test_inspect(untouched):
    said = said_of(inspected, untouched, 8)
    leaves = read_meta(untouched / "checkpoints", 8)["leaves"]
    kernel = leaves["params/layers/mlp/up/kernel"]["checksum"]
    assert any(f"2x32x128  float32  32,768  {kernel:08x}" in line.replace("   ", "  ") for line in said)
    assert "model.width = 32" in said and "checkpoint.keep = 3" in said
    assert any(line.startswith("versions: pretrainx") and "jax" in line for line in said)
    assert any(line.startswith("tokenizer = ") for line in said) and said[-1].startswith(f"{len(leaves)} leaves")
    assert said_of(inspected, untouched)[0].startswith("step 10 ")


def test_verify(untouched):
    said = said_of(verified, untouched)
    assert [line.split(",")[0] for line in said] == [f"step {step}: whole" for step in (4, 8, 10)]
    assert len(said_of(verified, untouched, 8)) == 1


def test_verify_names_the_leaf(copied):
    """A checksum that the content does not have; the meta record itself is whole."""
    path = copied / "checkpoints" / "8" / "meta" / "metadata"
    meta = json.loads(path.read_text())
    del meta["digest"]
    meta["leaves"]["ema/token/table"]["checksum"] ^= 1 << 7
    path.write_text(json.dumps(meta | {"digest": digest(meta)}))
    said = []
    with pytest.raises(CheckpointError) as caught:
        verified(copied, say=said.append)
    assert caught.value.exit_code == 4 and "8, leaf ema/token/table" in str(caught.value)
    assert [("whole" in line, "DAMAGED" in line) for line in said] == [(True, False), (False, True), (True, False)]
    assert (copied / "checkpoints" / "8").is_dir()


def test_another_version_is_no_damage(copied):
    path = copied / "checkpoints" / "8" / "meta" / "metadata"
    meta = json.loads(path.read_text())
    del meta["digest"]
    meta["format"] = 2
    path.write_text(json.dumps(meta | {"digest": digest(meta)}))
    (line,) = (line for line in said_of(listed, copied) if line.startswith("8 "))
    assert "a checkpoint of another format: format 2, this version reads 1" in line and "damaged" not in line
    said = []
    with pytest.raises(FormatError, match="read it with pretrainx"):
        verified(copied, say=said.append)
    assert "step 8: not verified, a checkpoint of another format" in said[1] and "whole" in said[2]


def test_what_takes_room(copied):
    """Damaged steps that are set aside make room for nothing; what vanishes while it is counted counts nothing."""
    state, directory = open_run(copied, 10, lambda line: None).restored.state, copied / "checkpoints"
    before = disk_need(state, 3, directory).present
    assert before == sum(bytes_under(directory / step) for step in ("4", "8", "10")) > 100_000
    (directory / "4").rename(directory / "4.corrupt")
    assert disk_need(state, 3, directory).present == before - bytes_under(directory / "4.corrupt")
    (directory / "dangling").symlink_to(directory / "nowhere")
    assert bytes_under(directory) >= before and bytes_under(directory / "nowhere") == 0


def test_verify_sees_flipped_bits(copied):
    """One bit in the files of array data: seen by the checksum or by the reader, or else every leaf reads as before.

    (Such files also hold what a later write of the same save replaced.)
    """
    step, rng, seen = copied / "checkpoints" / "10", np.random.default_rng(0), 0
    stated = read_meta(copied / "checkpoints", 10)["leaves"]
    leaves = lambda: {path: read_leaf(step, path, entry).tobytes() for path, entry in stated.items()}
    whole, files = leaves(), sorted(step.rglob("d/*"))
    sizes = np.array([path.stat().st_size for path in files])
    for _ in range(30):
        path = files[rng.choice(len(files), p=sizes / sizes.sum())]
        data = path.read_bytes()
        spoilt = bytearray(data)
        spoilt[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
        path.write_bytes(bytes(spoilt))
        try:
            verified(copied, 10, say=lambda line: None)
            assert leaves() == whole
        except CheckpointError as error:
            seen += 1
            assert "leaf" in str(error)
        path.write_bytes(data)
        if seen == 3:
            break
    assert seen == 3
    assert verified(copied, 10, say=lambda line: None) == 0


def test_what_is_not_there(copied, tmp_path):
    with pytest.raises(ConfigError, match="the workdir has no checkpoints"):
        listed(tmp_path)
    for command in (inspected, verified):
        with pytest.raises(CheckpointError, match="no checkpoint of step 5"):
            command(copied, 5)
    (tmp_path / "empty" / "checkpoints").mkdir(parents=True)
    assert said_of(listed, tmp_path / "empty") == said_of(verified, tmp_path / "empty")
