"""The command line: what is frozen, what is refused and how, and which exit code a failure gives."""

import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

import pretrainx.cli.main as command_line
from pretrainx.cli.arguments import parse
from pretrainx.core import errors

ROOT = Path(command_line.__file__).parents[2]


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipe.py"
    path.write_text("def get_config(arg=''):\n    return {'train': {'steps': 7}, 'arg': arg}\n")
    return str(path)


@pytest.fixture
def trained(monkeypatch):
    """The calls that reach `pretrainx.runs.train.train`; put an exception in `raises` to make it fail."""
    calls = types.SimpleNamespace(seen=[], raises=None)

    def train(values, workdir, allow_change):
        calls.seen.append((values, workdir, allow_change))
        if calls.raises is not None:
            raise calls.raises
        return 0

    module = types.ModuleType("pretrainx.runs.train")
    module.train = train
    monkeypatch.setitem(sys.modules, "pretrainx.runs.train", module)
    if "pretrainx.runs" not in sys.modules:
        monkeypatch.setitem(sys.modules, "pretrainx.runs", types.ModuleType("pretrainx.runs"))
    return calls


def block(capsys) -> str:
    """What was printed on stderr: exactly one block and no traceback."""
    text = capsys.readouterr().err
    assert text.startswith("error: ") and text.count("error: ") == 1 and "Traceback" not in text
    return text


def test_the_commands_and_their_flags_are_frozen():
    forms = {name: [flag.form() for flag in command.flags] for name, command in command_line.COMMANDS.items()}
    assert forms["train"] == ["--config=FILE[:ARG]", "--workdir=DIR", "--allow_change=KEY,...", "--dry_run"]
    assert forms["eval"] == [
        "--workdir=DIR",
        "--step=N",
        "--evals=NAME,...",
        "--choices=FILE.jsonl",
        "--task=FILE[:ARG]",
        "--demonstrations=K",
        "--demonstrations_from=FILE.jsonl",
    ]
    assert forms["replay"] == ["--workdir=DIR", "--step=N", "--rows=K", "--forward=K"]
    assert forms["plan"] == [
        "--config=FILE[:ARG]",
        "--topology=MACHINE",
        "--output=FILE.json",
        "--sweep",
        "--limit=N",
        "--effort=low|full",
        "--no_search",
    ]
    assert forms["scaling plan"] == [
        "--config=FILE[:ARG]",
        "--workdir=DIR",
        "--grid=KEY=V,V;...",
        "--list=FILE",
        "--prepare",
        "--flops_per_second=F",
        "--dry_run",
    ]
    assert forms["scaling run"] == [
        "--workdir=DIR",
        "--workers=N",
        "--retries=N",
        "--print=slurm|ray|commands",
        "--collect",
    ]
    assert forms["scaling predict"] == [
        "--workdir=DIR",
        "--fit=FILE.json",
        "--budget=C,C,...",
        "--loss=L",
        "--parameters=N",
        "--tokens=D",
        "--inference=TOKENS",
        "--unique=U",
        "--hold_out",
        "--output=FILE.json",
    ]
    assert forms["scaling report"] == [
        "--workdir=DIR",
        "--fit=FILE.json",
        "--table=FILE",
        "--columns=NAME:COLUMN,...",
        "--where=CONDITION,...",
        "--budget=C",
        "--output=FILE.html",
    ]
    assert forms["ckpt list"] == ["--workdir=DIR"]
    assert forms["ckpt inspect"] == ["--workdir=DIR", "--step=N"]
    assert forms["ckpt verify"] == ["--workdir=DIR", "--step=N|all"]
    assert forms["report"] == ["--output=FILE.html"]
    tables = [
        "--table=FILE",
        "--columns=NAME:COLUMN,...",
        "--where=CONDITION,...",
        "--convention=NAME",
        "--counted=NAME",
    ]
    assert forms["scaling fit"][:8] == ["--workdir=DIR", *tables, "--unit=NAME", "--output=FILE.json"]
    assert forms["scaling fit"][8:14] == [
        "--method=parametric|isoflop|envelope|curve",
        "--form=chinchilla|additive|kaplan|shared|data_constrained",
        "--fixed=NAME=V,...",
        "--equal",
        "--residual=huber|log_mse|mse|asymmetric",
        "--delta=N",
    ]
    checked = ["--config=FILE[:ARG]", "--output=DIR", "--widths=N,N,..."]
    assert forms["scaling coordcheck"] == [*checked, "--steps=N", "--seeds=N", "--rate=R", "--compare"]
    assert forms["scaling lr_transfer"] == [*checked, "--rates=R,R,...", "--steps=N", "--compare"]
    assert all(name == command.name for name, command in command_line.COMMANDS.items())


def test_train_gets_values_workdir_and_allowed_changes(trained, recipe):
    words = ["train", f"--config={recipe}:smoke", "--workdir=w", "--config.train.steps=9", "--allow_change=data,model"]
    assert command_line.main(words) == 0
    assert trained.seen == [({"train": {"steps": 9}, "arg": "smoke"}, "w", ("data", "model"))]


def test_both_forms_of_a_flag(trained, recipe):
    words = ["--debug", "train", "--config", recipe, "--config.mesh.data", "-1", "--workdir", "w"]
    assert command_line.main(words) == 0
    assert trained.seen == [({"train": {"steps": 7}, "arg": "", "mesh": {"data": -1}}, "w", ())]


@pytest.mark.parametrize("words", [["--prompt="], ["--prompt", ""]])
def test_a_text_may_be_empty_and_a_path_may_not(words):
    found = parse(command_line.COMMANDS["generate"], ["--workdir=DIR", *words])
    assert found.flags == {"workdir": "DIR", "prompt": ""}
    for wrong, said in (
        ([*words, "--workdir="], "--workdir has no value"),
        (["--workdir=DIR", "--prompt"], "--prompt has"),
    ):
        with pytest.raises(errors.ConfigError, match=said):
            parse(command_line.COMMANDS["generate"], wrong)


def test_the_last_of_two_overrides_counts(trained, recipe):
    words = ["train", "--config", recipe, "--workdir=w", "--config.train.steps=1", "--config.train.steps=2"]
    assert command_line.main(words) == 0
    assert trained.seen[0][0]["train"] == {"steps": 2}


@pytest.mark.parametrize(
    "extra, words",
    [
        ("steps=3", "did you mean --config.train.steps=3?"),
        ("train.steps=3", "did you mean --config.train.steps=3?"),
        ("config.train.steps=3", "did you mean --config.train.steps=3?"),
        ("lr=3", "did you mean --config.SECTION.lr=3?"),
        ("seed=3", "did you mean --config.seed=3?"),
        ("workdir=w", "did you mean --workdir=w?"),
        ("other.py:smoke", "did you mean --config=other.py:smoke?"),
        ("now", "every argument is written --key=value"),
        ("--confg=x", "unknown flag --confg: did you mean --config?"),
        ("--confg.train.steps=3", "did you mean --config.train.steps?"),
        ("--train.steps=3", "did you mean --config.train.steps?"),
        ("--steps=3", "did you mean --config.train.steps?"),
        ("--allow-change=data", "did you mean --allow_change?"),
        ("-workdir=x", "unknown flag -workdir: did you mean --workdir?"),
        ("--zzzz", "known: allow_change, config"),
        ("--workdir=again", "--workdir is given twice"),
        ("--allow_change", "--allow_change has no value"),
        ("--allow_change=", "--allow_change has no value"),
        ("--config.train.steps", "--config.train.steps has no value"),
        ("--debug=1", "--debug takes no value"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_advice(trained, recipe, capsys, extra, words):
    assert command_line.main(["train", "--config=" + recipe, "--workdir=w", extra]) == 2
    assert words in block(capsys)
    assert not trained.seen


def test_all_problems_are_told_at_once(trained, capsys):
    assert command_line.main(["train", "steps=3", "--wrkdir=x"]) == 2
    text = block(capsys)
    for words in ("4 problems", "'steps=3'", "--wrkdir", "missing --config=FILE[:ARG]", "missing --workdir=DIR"):
        assert words in text


@pytest.mark.parametrize(
    "words, said",
    [
        ([], "no command is given"),
        (["trian"], "did you mean 'train'?"),
        (["--workdir=x", "train"], "the command comes before '--workdir=x'"),
        (["report", "--output=x.html"], "missing RUN"),
        (["report", "run"], "missing --output=FILE.html"),
        (["train", "--config=nowhere.py", "--workdir=w"], "no config file nowhere.py"),
    ],
)
def test_other_refusals(capsys, words, said):
    assert command_line.main(words) == 2
    assert said in block(capsys)


@pytest.mark.parametrize("kind", [errors.DataError, errors.CheckpointError, errors.NonFiniteError, errors.Preempted])
def test_a_known_error_is_one_block_and_its_exit_code(trained, recipe, capsys, kind):
    trained.raises = kind("it broke", where="here", why="1 is not 2", do="mend it")
    words = ["train", "--config=" + recipe, "--workdir=w"]
    assert command_line.main(words) == kind.exit_code
    code = kind.exit_code
    assert block(capsys) == f"error: it broke  (exit {code})\n  where here\n  why   1 is not 2\n  do    mend it\n"
    assert command_line.main([*words, "--debug"]) == code
    text = capsys.readouterr().err
    assert text.startswith("Traceback") and text.endswith("  do    mend it\n")


def test_a_bug_shows_its_traceback_and_then_a_block(trained, recipe, capsys):
    trained.raises = KeyError("lost")
    assert command_line.main(["train", "--config=" + recipe, "--workdir=w"]) == 1
    traceback, block = capsys.readouterr().err.split("error: unexpected ")
    assert traceback.startswith("Traceback") and "KeyError: 'lost'" in traceback
    assert block.startswith("KeyError: 'lost'  (exit 1)\n") and "test_command_line.py:" in block


def test_an_interrupt_gives_130(trained, recipe, capsys):
    trained.raises = KeyboardInterrupt()
    assert command_line.main(["train", "--config=" + recipe, "--workdir=w"]) == 130
    assert "run the same command again" in block(capsys)


@pytest.mark.parametrize("where", ["host", "device"])
def test_out_of_memory_names_three_knobs(trained, recipe, capsys, where):
    if where == "device":
        import jax

        trained.raises = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8589934592 bytes.")
    else:
        trained.raises = MemoryError("Unable to allocate 8.0 GiB")
    assert command_line.main(["train", "--config=" + recipe, "--workdir=w"]) == 5
    text = block(capsys)
    for words in (
        f"where {where}",
        str(trained.raises),
        "train.microbatches",
        "model.remat",
        "--config.mesh.data=1 --config.mesh.fsdp=-1",
    ):
        assert words in text


def test_another_failure_of_the_device_is_no_shortage_of_memory(trained, recipe, capsys):
    import jax

    trained.raises = jax.errors.JaxRuntimeError("INTERNAL: something else")
    assert command_line.main(["train", "--config=" + recipe, "--workdir=w"]) == 1
    assert "unexpected JaxRuntimeError" in capsys.readouterr().err


def test_help_shows_every_command_and_flag(capsys):
    assert command_line.main(["--help"]) == 0
    overview = capsys.readouterr().out
    for command in command_line.COMMANDS.values():
        assert f"  {command.name} " in overview and command.help in overview
        assert command_line.main([command.name, "--help"]) == 0
        text = capsys.readouterr().out
        assert all(flag.form() in text for flag in command.flags) and "--debug" in text


def test_help_imports_neither_jax_nor_matplotlib():
    code = (
        "import sys; from pretrainx.cli.main import main; assert main(['train', '--help']) == 0;"
        "found = {'jax', 'flax', 'matplotlib', 'numpy'} & set(sys.modules); assert not found, found"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, timeout=60)


def test_the_module_form_ends_with_the_exit_code():
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-m", "pretrainx", "train", "steps=3"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and done.stdout == "" and done.stderr.startswith("error: ")
