"""What a person can get wrong: one block that names it, the exit code of its kind, and a workdir in which nothing is lost."""

import hashlib
import os
import shutil
from pathlib import Path

import jax
import pytest

from chaos.runs import block_of, write_corpus, write_recipe
from pretrainx.cli.main import main

pytestmark = [pytest.mark.xdist_group("bad_input")]
CONFIG, DATA, CHECKPOINT = 2, 3, 4


@pytest.fixture(scope="module", autouse=True)
def compiled():
    """The command switches its own compilation cache on; here it is the tests', and what it set is set back."""
    names = ("jax_persistent_cache_min_compile_time_secs", "jax_compilation_cache_dir")
    before = {name: getattr(jax.config, name) for name in names}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_COMPILATION_CACHE_DIR", before["jax_compilation_cache_dir"])
        yield
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A config file, a trained run (8 steps, saved after 4 and 8), and things that are wrong in one way each."""
    home = tmp_path_factory.mktemp("home")
    write_recipe(home, steps=8, every=4, eval_every=0, keep=2)
    assert main(["train", f"--config={home}/recipe.py", f"--workdir={home}/run"]) == 0
    (home / "empty.txt").touch()
    (home / "short.txt").write_text("only one line of text, for less than a batch of rows\n" * 5)
    write_corpus(home / "other.txt", seed=1)
    (home / "bare").mkdir()
    shutil.copytree(home / "run", home / "damaged")
    for path in (home / "damaged" / "checkpoints").rglob("d/*"):
        path.write_bytes(path.read_bytes()[:-200])
    return home


def case(name, code, says, *words, run="run", config="recipe.py"):
    return pytest.param(code, says, words, run, config, id=name)


# `says`: what the block must contain, the config path or the file first, then why, then what to do. {home} is filled in.
CASES = [
    case(
        "unknown key",
        CONFIG,
        ("config.train.stepz", "unknown key", "did you mean 'steps'?"),
        "--config.train.stepz=9",
    ),
    case(
        "key in the wrong section",
        CONFIG,
        ("config.model.batch_size", "unknown key", "'batch_size' is a key of config.train"),
        "--config.model.batch_size=8",
    ),
    case(
        "wrong type",
        CONFIG,
        ("config.train.steps", "expected an integer; got 'many' (str)", "--config.SECTION.KEY=VALUE"),
        "--config.train.steps=many",
    ),
    case(
        "out of range",
        CONFIG,
        ("config.ema.decay", "1.5 is above the largest value"),
        "--config.ema.decay=1.5",
    ),
    case(
        "unknown optimizer",
        CONFIG,
        ("config.optimizer.name", "unknown name 'adam'", "did you mean 'adamw'?"),
        "--config.optimizer.name=adam",
    ),
    case(
        "stray argument",
        CONFIG,
        ("'steps=3' is a stray argument", "--config.train.steps=3"),
        "steps=3",
    ),
    case(
        "unknown flag",
        CONFIG,
        ("--steps", "did you mean --config.train.steps?"),
        "--steps=3",
    ),
    case(
        "missing config file",
        CONFIG,
        ("there is no config file", "recipee.py", "did you mean", "{home}/recipe.py"),
        config="recipee.py",
    ),
    case(
        "missing data file",
        DATA,
        ("config.data.paths: {home}/nothing.txt", "a source file does not exist", "correct the path"),
        "--config.data.paths=('{home}/nothing.txt',)",
        "--config.data.cache={home}/new1",
    ),
    case(
        "no paths",
        CONFIG,
        ("config.data.paths", "no paths are given", "name files, directories or glob patterns"),
        "--config.data.paths=()",
        "--config.data.cache={home}/new2",
    ),
    case(
        "empty corpus",
        DATA,
        ("config.data.paths", "the corpus is empty", "name files that contain text"),
        "--config.data.paths=('{home}/empty.txt',)",
        "--config.data.cache={home}/new3",
    ),
    case(
        "corpus smaller than a batch",
        DATA,
        ("config.train.batch_size", "7 rows of 32 tokens, a batch takes 8", "add text (config.data.paths)"),
        "--config.data.paths=('{home}/short.txt',)",
        "--config.data.cache={home}/new4",
    ),
    case(
        "corpus smaller than a row",
        DATA,
        ("config.data.length", "a row of length 512 needs 513", "lower config.data.length"),
        "--config.data.paths=('{home}/short.txt',)",
        "--config.data.cache={home}/new4b",
        "--config.data.length=512",
    ),
    case(
        "unknown tokenizer",
        CONFIG,
        ("config.data.tokenizer", "unknown tokenizer 'byte'", "did you mean 'bytes'?"),
        "--config.data.tokenizer=byte",
        "--config.data.cache={home}/new5",
    ),
    case(
        "batch and mesh",
        CONFIG,
        ("config.train.batch_size", "12 rows over 8 data x fsdp x expert x stage ways", "--config.train.batch_size=16"),
        "--config.train.batch_size=12",
    ),
    case(
        "mesh and devices",
        CONFIG,
        ("config.mesh", "tensor=3", "there are 8 devices", "--config.mesh.data=-1"),
        "--config.mesh.data=1",
        "--config.mesh.tensor=3",
    ),
    case(
        "heads and width",
        CONFIG,
        ("config.model", "the heads do not divide the width", "width 32, heads 3", "choose a width"),
        "--config.model.heads=3",
    ),
    case(
        "warm-up longer than the run",
        CONFIG,
        ("config.schedule.warmup", "warmup 20, train.steps 8", "a longer run"),
        "--config.schedule.warmup=20",
    ),
    case(
        "group that matches nothing",
        CONFIG,
        ("config.optimizer.groups", "'querry' matches no parameter", "patterns match whole paths"),
        "--config.optimizer.groups=[{{'pattern': 'querry'}}]",
    ),
    case(
        "every checkpoint damaged",
        CHECKPOINT,
        ("{home}/damaged/checkpoints/4", "no checkpoint is usable", "train anew in another --workdir"),
        run="damaged",
    ),
    case(
        "workdir in use",
        CONFIG,
        ("{home}/run", "config.resume is 'never'", "choose another --workdir"),
        "--config.resume=never",
    ),
    case(
        "other data on resume",
        DATA,
        ("config.data", "digest", "--allow_change=data"),
        "--config.data.paths=('{home}/other.txt',)",
        "--config.data.cache={home}/new6",
    ),
    case(
        "other data in the same workdir",
        DATA,
        ("config.data.paths", "other.txt", "prepare elsewhere"),
        "--config.data.paths=('{home}/other.txt',)",
    ),
    case(
        "other seed on resume",
        DATA,
        ("config.seed", "seed: 0 before, 5 now", "--allow_change=seed"),
        "--config.seed=5",
    ),
    case(
        "other width on resume",
        CHECKPOINT,
        (
            "{home}/run/checkpoints/8",
            "does not fit the configuration",
            "config.model.width: 32",
            "64 now",
            "another --workdir",
        ),
        "--config.model.width=64",
    ),
    case(
        "other depth on resume",
        CHECKPOINT,
        (
            "{home}/run/checkpoints/8",
            "does not fit the configuration",
            "config.model.depth: 2",
            "3 now",
            "another --workdir",
        ),
        "--config.model.depth=3",
    ),
    case(
        "unknown allowed change",
        CONFIG,
        ("--allow_change", "'modle'", "another --workdir"),
        "--allow_change=modle",
    ),
    case(
        "nothing to start from",
        CHECKPOINT,
        ("{home}/bare/checkpoints", "there is no checkpoint to start from", "config.init_from"),
        "--config.init_from={home}/bare",
        run="fresh",
    ),
]


def contents(directory: Path) -> dict[str, str]:
    """Digest of every file but the journal of events, which only grows."""
    files = (path for path in directory.rglob("*") if path.is_file() and path.name != "events.jsonl")
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("code, says, words, run, config", CASES)
def test_refused(code, says, words, run, config, home, capfd):
    workdir = home / run
    words = [word.format(home=home) for word in words]
    command = ["train", f"--config={home}/{config}", f"--workdir={workdir}", *words]
    before, events = contents(workdir), _events(workdir)
    capfd.readouterr()
    assert main(command) == code
    text = capfd.readouterr().err
    assert text.startswith("error: ") and block_of(text) == text.rstrip("\n")
    assert f"(exit {code})" in text.split("\n")[0] and "Traceback" not in text
    for part in says:
        assert part.format(home=home) in text, text
    assert "  do    " in text or "did you mean" in text
    # With --debug the same block, below the traceback.
    assert main([*command, "--debug"]) == code
    text = capfd.readouterr().err
    assert "Traceback (most recent call last)" in text and block_of(text)
    after = {name.replace(".corrupt", ""): digest for name, digest in contents(workdir).items()}
    assert before.items() <= after.items()
    new = {name for name in after if name not in before}
    assert not new or not before and all(name.startswith("data/") for name in new)
    assert _events(workdir)[: len(events)] == events


def _events(workdir: Path) -> bytes:
    path = workdir / "events.jsonl"
    return path.read_bytes() if path.is_file() else b""


def test_other_data_are_taken_when_allowed(home, tmp_path, capfd):
    shutil.copytree(home / "run", tmp_path / "run")
    words = [f"--config.data.paths=('{home}/other.txt',)", f"--config.data.cache={tmp_path}/data"]
    command = ["train", f"--config={home}/recipe.py", f"--workdir={tmp_path}/run", *words, "--config.train.steps=10"]
    assert main(command) == DATA
    assert main([*command, "--allow_change=data"]) == 0
    assert "resumed from step 8" in capfd.readouterr().out
    events = (tmp_path / "run" / "events.jsonl").read_text()
    assert "(allowed: the steps to come would read other data)" in events and "digest" in events


def test_a_run_set_aside_is_not_started_over(home, tmp_path, capfd):
    """The second start after total damage must refuse as the first did: it finds no step, but traces of a run."""
    shutil.copytree(home / "run", tmp_path / "run")
    for path in (tmp_path / "run" / "checkpoints").rglob("d/*"):
        os.truncate(path, 10)
    command = ["train", f"--config={home}/recipe.py", f"--workdir={tmp_path}/run"]
    assert main(command) == main(command) == CHECKPOINT
    assert capfd.readouterr().err.count("no checkpoint is usable") == 2


@pytest.mark.parametrize("place", ["a file", "below a file"])
@pytest.mark.parametrize("resume", ["auto", "never"])
def test_a_workdir_that_cannot_be(place, resume, home, capfd):
    file = home / "empty.txt"
    workdir = file if place == "a file" else file / "run"
    assert main(["train", f"--config={home}/recipe.py", f"--workdir={workdir}", f"--config.resume={resume}"]) == 2
    text = capfd.readouterr().err
    assert (
        text.startswith("error: the workdir cannot be made") and f"--workdir={workdir}" in text and "  do    " in text
    )
    assert "Traceback" not in text and file.read_text() == ""


def test_layers_that_do_not_divide_over_stages(home, tmp_path, capfd):
    words = ["--config.mesh.stage=8", "--config.train.batch_size=8"]
    assert main(["train", f"--config={home}/recipe.py", f"--workdir={tmp_path / 'run'}", *words]) == 2
    text = capfd.readouterr().err
    assert "config.mesh.stage" in text and "--config.mesh.stage=2" in text


def test_damaged_parameters_to_start_from(home, tmp_path, capfd):
    """init_from takes the newest whole step; where none is, it says so and what to do."""
    shutil.copytree(home / "run", tmp_path / "run")
    steps = sorted((int(path.name) for path in (tmp_path / "run" / "checkpoints").glob("[0-9]*")), reverse=True)
    command = ["train", f"--config={home}/recipe.py", f"--config.init_from={tmp_path / 'run'}"]
    for count, step in enumerate(steps):
        (tmp_path / "run" / "checkpoints" / str(step) / "meta" / "metadata").write_text("{")
        code = main([*command, f"--workdir={tmp_path / str(count)}"])
        seen = capfd.readouterr()
        if count + 1 < len(steps):
            assert code == 0 and f"step {steps[count + 1]}:" in seen.out
        else:
            assert code == 4 and "no checkpoint to start from is usable" in seen.err and "config.init_from" in seen.err
