"""XLA's flags: the table, what a shell gets, and that the pinned versions take them."""

import importlib.metadata
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "launch" / "xla_flags.py"
spec = importlib.util.spec_from_file_location("xla_flags", SCRIPT)
xla_flags = sys.modules["xla_flags"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(xla_flags)


def ask(*words, **environ):
    env = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "LIBTPU_INIT_ARGS")} | environ
    return subprocess.run([sys.executable, SCRIPT, *words], env=env, capture_output=True, text=True)


def test_what_a_shell_gets():
    flags = "--xla_tpu_enable_data_parallel_all_reduce_opt=true --xla_tpu_data_parallel_opt_different_sized_ops=true "
    flags += (
        "--xla_tpu_enable_async_collective_fusion=true --xla_tpu_enable_async_collective_fusion_fuse_all_gather=true "
    )
    flags += (
        "--xla_tpu_enable_async_collective_fusion_multiple_steps=true --xla_tpu_overlap_compute_collective_tc=true "
    )
    flags += "--xla_enable_async_all_gather=true"
    out = ask("--platform=v5e").stdout
    assert out == f"export LIBTPU_INIT_ARGS='{flags}'\"${{LIBTPU_INIT_ARGS:+ $LIBTPU_INIT_ARGS}}\"\n"
    shown = subprocess.run(
        ["bash", "-c", out + 'echo "$LIBTPU_INIT_ARGS"'],
        env={"LIBTPU_INIT_ARGS": "--mine=1"},
        text=True,
        capture_output=True,
    )
    assert shown.stdout == f"{flags} --mine=1\n"


def test_a_command_gets_them_and_the_environment_wins():
    show = "import os; print(os.environ['XLA_FLAGS'], os.environ['XLA_PYTHON_CLIENT_MEM_FRACTION'])"
    done = ask(
        "--platform=gpu", "--", sys.executable, "-c", show, XLA_FLAGS="--mine=1", XLA_PYTHON_CLIENT_MEM_FRACTION="0.5"
    )
    assert done.stdout == "--xla_gpu_triton_gemm_any=true --mine=1 0.5\n"
    assert ask("--platform=gpu", "--print", "--", "run", "a b").stdout.endswith("run 'a b'\n")
    assert ask("--platform=gpu", "--", "no-such-command").returncode == 2


def test_later_sets_win_over_earlier_ones():
    flags = xla_flags.variables("v6e", ("vmem_experts",))["LIBTPU_INIT_ARGS"]
    assert "limit_kib=81920" in flags and "98304" not in flags


@pytest.mark.parametrize("words", [[], ["--platform=v2"], ["--platform=v5e", "--with=no"], ["--plaform=v5e"]])
def test_bad_command_lines(words):
    done = ask(*words)
    assert done.returncode == 2 and "usage" in done.stderr


def test_every_set_says_why_and_where_from():
    listed = ask("--list").stdout
    for name, each in xla_flags.SETS.items():
        assert each.why and each.source and (each.flags or each.environment) and f"\n{name}: " in listed
    assert all(set(names) <= set(xla_flags.SETS) for names in xla_flags.PLATFORMS.values())


def test_other_versions_are_told(monkeypatch):
    monkeypatch.setattr(xla_flags.importlib.metadata, "version", lambda package: "9.9")
    assert "checked with libtpu 0.0.42.1, here is 9.9" in xla_flags.misfit("v5e")
    assert "checked with jax 0.10.2" in xla_flags.misfit("gpu-multi")


OF_TPU = [name for name, each in xla_flags.SETS.items() if "tpu" in "".join(each.flags) or "jf_" in "".join(each.flags)]


@pytest.mark.slow
@pytest.mark.parametrize("platform", [name for name in xla_flags.PLATFORMS if not xla_flags.of_gpu(name)])
def test_libtpu_takes_them(platform):
    """All sets together; one that is unknown is refused, so the answer means something."""
    pytest.importorskip("libtpu")
    if importlib.metadata.version("libtpu") != xla_flags.CHECKED["libtpu"]:
        pytest.skip("the table is for another libtpu")
    assert len(OF_TPU) >= 10
    assert xla_flags.refusal(platform, tuple(OF_TPU)) == ""


@pytest.mark.slow
@pytest.mark.parametrize("platform", ["gpu", "gpu-multi"])
def test_jaxlib_takes_them(platform):
    if importlib.metadata.version("jax") != xla_flags.CHECKED["jax"]:
        pytest.skip("the table is for another jax")
    assert xla_flags.refusal(platform) == ""


@pytest.mark.slow
def test_what_is_unknown_is_refused(monkeypatch):
    monkeypatch.setitem(xla_flags.SETS, "wrong", xla_flags.FlagSet("", "", ("gpu_no_such=true",)))
    assert "xla_gpu_no_such" in xla_flags.refusal("gpu", ("wrong",))
