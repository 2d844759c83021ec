"""The commands that look at a run, by the command line: what they print, and their exit codes."""

import shutil

import pytest

from chaos.runs import block_of
from pretrainx.cli.main import main

pytestmark = pytest.mark.xdist_group("looking")


def test_dry_run(home, tmp_path, capsys):
    command = ["train", f"--config={home}/recipe.py", f"--workdir={tmp_path}/run", "--dry_run"]
    assert main([*command, "--config.seed=2"]) == 0
    text = capsys.readouterr().out
    assert "seed = 0 -> 2   (override)" in text and "would start from scratch" in text
    assert main([*command, "--config.train.batch_size=9"]) == 2
    assert "does not divide" in block_of(capsys.readouterr().err)
    assert not (tmp_path / "run").exists()


def test_replay(home, capsys):
    assert main(["replay", f"--workdir={home}/run", "--step=5", "--rows=1"]) == 0
    text = capsys.readouterr().out
    assert "as logged" in text and "reproduces" in text and text.count("batch tokens") == 1


def test_checkpoints(home, tmp_path, capsys):
    workdir = f"--workdir={home}/run"
    assert (
        main(["ckpt", "list", workdir]) == main(["ckpt", "inspect", workdir]) == main(["ckpt", "verify", workdir]) == 0
    )
    assert capsys.readouterr().out.count("whole") == 2
    assert main(["ckpt", "verify", workdir, "--step=4"]) == main(["ckpt", "verify", workdir, "--step=all"]) == 0
    shutil.copytree(home / "run", tmp_path / "run")
    for path in (tmp_path / "run" / "checkpoints" / "4").rglob("d/*"):
        path.write_bytes(path.read_bytes()[:-150])
    assert main(["ckpt", "verify", f"--workdir={tmp_path}/run"]) == 4
    seen = capsys.readouterr()
    assert "leaf" in block_of(seen.err) and "step 8: whole" in seen.out
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir()) == ["4", "8"]


@pytest.mark.parametrize(
    "words, code, says",
    [
        (["replay", "--workdir={home}/run"], 2, "missing --step=N"),
        (["replay", "--workdir={home}/run", "--step=-1"], 2, "--step is a whole number"),
        (["replay", "--workdir={home}", "--step=1"], 2, "not the workdir of a run"),
        (["ckpt", "verify", "--workdir={home}/run", "--step=x"], 2, "--step is a whole number"),
        (["ckpt", "verify", "--workdir={home}/run", "--step=5"], 4, "steps there: 4, 8"),
        (["ckpt", "list", "--workdir={home}"], 2, "has no checkpoints"),
        (["ckpt", "--workdir={home}"], 2, "known: inspect, list, verify"),
        (["ckpt", "verfy", "--workdir={home}"], 2, "did you mean 'ckpt verify'"),
    ],
)
def test_refused(words, code, says, home, capsys):
    assert main([word.format(home=home) for word in words]) == code
    assert says in block_of(capsys.readouterr().err)
