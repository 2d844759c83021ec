"""The house's rules, read from the source: imports go down, files stay small, one mesh, no ambient rules."""

import ast
import importlib.util
import pathlib

import pytest

from pretrainx.core import errors

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / "pretrainx"

# A package imports packages of lower floors only; CONTRIBUTING.md has the same table with reasons.
FLOORS = {
    "core": 0,
    "parallel": 1,
    "data": 1,
    "optim": 1,
    "models": 2,
    "objectives": 3,
    "adapt": 4,
    "training": 5,
    "evals": 5,
    "report": 5,
    "interop": 5,
    "runs": 6,
    "scaling": 7,
    "cli": 8,
}
SOURCES = sorted(PACKAGE.rglob("*.py"))
ALL_SOURCES = SOURCES + sorted(p for d in ("tests", "configs", "benchmarks") for p in (ROOT / d).rglob("*.py"))


def imported(path):
    """Names of modules that a file imports anywhere, functions included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_files_of_tests_have_names_of_their_own():
    """pytest imports them by name: of two that are called alike one is not run."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))


def test_every_package_has_a_floor():
    assert {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()} == set(FLOORS)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path):
    parts = path.relative_to(PACKAGE).parts
    if len(parts) == 1:
        return  # the top: pretrainx/__init__.py, __main__.py
    floor = FLOORS[parts[0]]
    for name in imported(path):
        if name.startswith("pretrainx.") and name.split(".")[1] in FLOORS:
            other = name.split(".")[1]
            assert other == parts[0] or FLOORS[other] < floor, f"{path.name} imports {name}: upward or sideways"


@pytest.mark.parametrize("path", ALL_SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_are_small(path):
    lines = path.read_text().count("\n")
    assert lines <= 350, f"{lines} lines: two ideas live here"
    assert path.stem not in ("utils", "util", "misc", "helpers", "common")


def calls(path):
    """Dotted names of everything that is called or imported in a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func)
    yield from imported(path)


@pytest.mark.parametrize(
    ("names", "home"),
    [
        (("make_mesh", "Mesh", "create_device_mesh"), "parallel/mesh.py"),
        (("with_sharding_constraint", "make_user_context"), "parallel/rules.py"),
        (("logical_axis_rules", "with_logical_constraint", "set_logical_axis_rules"), "nowhere"),
        (("set_mesh", "use_mesh", "pmap", "pjit"), "nowhere"),
        (("shard_map", "ppermute"), "parallel/"),
        (("intercept_methods",), "adapt/inserted.py"),
    ],
)
def test_one_home(names, home):
    """Meshes are built in one function, activations constrained in another; ambient rules, which jit cannot see, nowhere."""
    for path in SOURCES:
        where = str(path.relative_to(PACKAGE))
        found = {call for call in calls(path) if call.split(".")[-1] in names}
        if where == home or home.endswith("/") and where.startswith(home):
            continue
        found -= {"jax.sharding.Mesh"}  # as a type
        if where == "runs/parts.py":
            found -= {"make_mesh", "pretrainx.parallel.mesh.make_mesh"}  # calls the one function
        assert not found, f"{where} uses {found}; it belongs in {home}"


def test_no_code_execution():
    """Nothing unpickles, evaluates or runs a shell (configs are executed in one place, the command line's edge)."""
    forbidden = ("pickle", "dill", "cloudpickle", "torch", "yaml.load")
    for path in SOURCES:
        names = set(imported(path))
        assert not any(name.split(".")[0] in forbidden for name in names), path
        assert not {"eval", "exec", "os.system"} & set(calls(path)), path


def test_the_step_knows_no_objective():
    """The train step imports the contract, no objective, and asks for no type."""
    source = (PACKAGE / "training/step.py").read_text()
    objectives = {name for name in imported(PACKAGE / "training/step.py") if ".objectives." in name}
    assert objectives == {"pretrainx.objectives.objective.Batch", "pretrainx.objectives.objective.Objective"}
    assert "isinstance" not in source and "hasattr" not in source


@pytest.mark.parametrize("path", sorted((ROOT / "configs").rglob("*.py")), ids=lambda path: path.stem)
def test_every_config_is_a_run(path):
    """Each config file and its smoke form pass the strict schema, and the docstring gives a command."""
    from pretrainx.cli.config_file import load
    from pretrainx.runs.recipe import parse
    from pretrainx.scaling.study import split

    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    values, study = split(load(str(path)))
    assert f"pretrainx {'scaling plan' if study else 'train'} --config=" in module.__doc__
    full, smoke = parse(values), parse(split(load(f"{path}:smoke"))[0])
    assert smoke.train.steps < full.train.steps


@pytest.mark.parametrize("name", ["moco", "clip", "coca", "codebook"])
def test_toys_are_small(name):
    """An objective or wrapper on this contract takes at most 50 lines: docstrings, imports and blank lines not counted."""
    path = ROOT / "tests" / "toys" / f"{name}.py"
    tree = ast.parse(path.read_text())
    left_out = set()
    for node in ast.walk(tree):
        text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        if text or isinstance(node, (ast.Import, ast.ImportFrom)):
            left_out |= set(range(node.lineno, node.end_lineno + 1))
    lines = enumerate(path.read_text().splitlines(), 1)
    assert sum(bool(line.strip()) and number not in left_out for number, line in lines) <= 50


def test_errors_say_what_where_why_and_what_to_do():
    """Every error that is raised for a person has all four parts; what re-raises another's passes them on."""
    kinds, incomplete = {name for name, value in vars(errors).items() if isinstance(value, type)}, []
    for path in sorted((ROOT / "pretrainx").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            called = getattr(node.func, "id", getattr(node.func, "attr", "")) if isinstance(node, ast.Call) else ""
            given = {keyword.arg for keyword in node.keywords} if called in kinds else {None}
            if None not in given and (missing := {"where", "why", "do"} - given):
                incomplete.append(
                    f"{path.relative_to(ROOT)}:{node.lineno}: {called} lacks {', '.join(sorted(missing))}"
                )
    assert not incomplete, "\n".join(incomplete)


@pytest.mark.xdist_group("together")
def test_groups_of_tests_stay_together(request):
    """Tests of one group share what they compile, where pytest-xdist sees the group: it does so by the name of the test."""
    if hasattr(request.config, "workerinput"):
        assert request.node.nodeid.endswith("@together"), "this pytest hides groups from pytest-xdist: see setup.py"
