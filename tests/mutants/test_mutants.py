"""Every named fault must be found by the test that claims it: the faults are put into a copy and the tests run there."""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import jax
import pytest

from mutants import (
    of_adapt,
    of_collectives,
    of_context,
    of_contrastive,
    of_data,
    of_elastic,
    of_evals,
    of_experts,
    of_images,
    of_interop,
    of_launch,
    of_masked_pictures,
    of_memory,
    of_objectives,
    of_optim,
    of_pairs,
    of_parts,
    of_perils,
    of_plan,
    of_processes,
    of_runs,
    of_scaling_counting,
    of_scaling_fitting,
    of_scaling_frontier,
    of_scaling_laws,
    of_scaling_mup,
    of_scaling_plan,
    of_scaling_predict,
    of_scaling_run,
    of_seq2seq,
    of_stages,
    of_starting,
    of_tasks,
    of_training,
    of_vision,
)

REPOSITORY = pathlib.Path(__file__).parents[2]
MUTANTS = [
    *of_training.LOSS,
    *of_training.STATES,
    *of_optim.OPTIMIZERS,
    *of_parts.MODELS,
    *of_parts.SHARDING,
    *of_parts.TOYS,
    *of_adapt.WRAPPERS,
    *of_processes.PROCESSES,
    *of_runs.RUNS,
    *of_data.DATA,
    *of_elastic.ELASTIC,
    *of_context.CONTEXT_FAULTS,
    *of_contrastive.CONTRASTIVE_FAULTS,
    *of_interop.INTEROP,
    *of_launch.LAUNCH,
    *of_objectives.OBJECTIVES,
    *of_scaling_fitting.FITTING,
    *of_scaling_frontier.FRONTIERS,
    *of_scaling_laws.SCALING_LAWS,
    *of_seq2seq.SPANS_AND_NOISE,
    *of_evals.EVALS,
    *of_experts.EXPERT_FAULTS,
    *of_images.AUGMENTATIONS,
    *of_vision.NETWORKS,
    *of_masked_pictures.MASKED_PICTURES,
    *of_memory.MEMORY,
    *of_pairs.PAIRS,
    *of_perils.PERILS,
    *of_tasks.TASKS,
    *of_starting.STARTS,
    *of_plan.PLANS,
    *of_scaling_plan.PLANNED,
    *of_scaling_run.RUN,
    *of_collectives.COMMUNICATED,
    *of_stages.STAGES,
    *of_scaling_counting.COUNTING,
    *of_scaling_mup.MUP_FAULTS,
    *of_scaling_predict.PREDICTED,
]
KILLED, SURVIVED = 1, 0  # pytest's exit codes; others mean that no test was run
BROKEN = ("SyntaxError", "NameError", "ImportError", "AttributeError", "TypeError")  # the fault itself does not run


def test_faults_fit_the_code():
    """Each fault's text occurs exactly once in its file, and its killer exists: the table cannot rot."""
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 20
    for mutant in MUTANTS:
        assert mutant.old != mutant.new
        assert (REPOSITORY / mutant.file).read_text().count(mutant.old) == 1, (
            f"{mutant.name}: {mutant.old!r} in {mutant.file}"
        )
        file, function = re.fullmatch(r"(.*)::(\w+)(?:\[.*\])?", mutant.killer).groups()
        assert f"def {function}(" in (REPOSITORY / file).read_text(), f"{mutant.name}: {mutant.killer}"


def copy(directory):
    """The package and its tests in a directory of their own."""
    ignore = shutil.ignore_patterns("__pycache__", ".jax_cache")
    for name in ("pretrainx", "tests", "launch"):
        shutil.copytree(REPOSITORY / name, directory / name, ignore=ignore)
    shutil.copy(REPOSITORY / "pyproject.toml", directory)
    return directory


def python(directory, *arguments):
    """Runs the interpreter in a copy, whose package hides the installed one."""
    dropped = ("PYTEST_", "COV_", "PRETRAINX_SHARE")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    environment |= {
        "PYTHONPATH": str(directory),
        "PYTHONDONTWRITEBYTECODE": "1",
        "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
    }
    return subprocess.run([sys.executable, *arguments], cwd=directory, env=environment, capture_output=True, text=True)


def run_tests(directory, *selection):
    options = ("-n0", "-x", "-p", "no:cacheprovider", "-m", "slow or not slow")
    return python(directory, "-m", "pytest", *options, *selection)


def exception(output):
    """What ended the test: pytest shows a bare `assert`, and `Failed` where nothing was raised."""
    shown = re.search(r"^E +(?:[\w.]*?)(\w*Error|Failed|assert)\b", output, re.MULTILINE)
    return {"assert": "AssertionError", "Failed": "not refused", None: "?"}.get(shown and shown[1], shown and shown[1])


def judge(mutant, directory):
    """(mutant, exit code of its killer, its exception, seconds, the end of its output) in a fresh copy with the fault."""
    start = time.monotonic()
    place = copy(directory) / mutant.file
    text = place.read_text()
    place.write_text(text.replace(mutant.old, mutant.new))
    done = run_tests(directory, mutant.killer)
    shutil.rmtree(directory)
    return (
        mutant,
        done.returncode,
        exception(done.stdout),
        time.monotonic() - start,
        done.stdout[-1500:] + done.stderr[-500:],
    )


def test_the_copy_is_what_is_tested(tmp_path):
    """Not the installed package: with a copy that cannot be imported, the import fails."""
    directory = copy(tmp_path / "copy")
    for module in ("pretrainx", "pretrainx.training.step", "toys.line"):
        done = python(directory, "-c", f"import sys; sys.path.append('tests'); import {module} as m; print(m.__file__)")
        assert done.stdout.startswith(str(directory)), done.stdout + done.stderr
    (directory / "pretrainx" / "training" / "guard.py").write_text("raise RuntimeError('the copy')")
    assert "the copy" in python(directory, "-c", "import pretrainx.training.step").stderr


@pytest.mark.slow
@pytest.mark.rotated(of=1)  # it has a share of its own
@pytest.mark.timeout(1800)
def test_every_fault_is_killed(tmp_path):
    """And without a fault every killer passes. PRETRAINX_MUTANTS=0/2 is the first half of the table, 1/2 the other."""
    part, parts = map(int, os.environ.get("PRETRAINX_MUTANTS", "0/1").split("/"))
    mutants = MUTANTS[part::parts]
    killers = sorted({mutant.killer for mutant in mutants})
    with ThreadPoolExecutor(2) as pool:
        control = pool.submit(run_tests, copy(tmp_path / "control"), *killers)
        directories = [tmp_path / str(number) for number in range(len(mutants))]
        judged = list(pool.map(judge, mutants, directories))
    print(*table(judged), sep="\n")
    done = control.result()
    assert done.returncode == 0, done.stdout[-3000:]
    assert int(re.search(r"\b(\d+) passed", done.stdout)[1]) >= len(killers), done.stdout[-300:]
    failed = [
        f"{mutant.name} (exit {code}, {raised}): {output}"
        for mutant, code, raised, _, output in judged
        if code != KILLED or raised in BROKEN
    ]
    assert not failed, "\n\n".join(failed)


def table(judged):
    yield f"{'fault':<14}{'what':<60}{'':<10}{'by':<18}{'seconds':>8}  test"
    for mutant, code, raised, seconds, _ in judged:
        verdict = {KILLED: "killed", SURVIVED: "SURVIVED"}.get(code, f"exit {code}")
        yield f"{mutant.name:<14}{mutant.what:<60}{verdict:<10}{raised:<18}{seconds:>8.1f}  {mutant.killer}"
    killed = sum(code == KILLED for _, code, *_ in judged)
    yield f"{killed} of {len(judged)} killed, {sum(row[3] for row in judged):.0f} s of processes"
