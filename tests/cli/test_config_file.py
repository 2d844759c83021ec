"""Config files and overrides: what they give, and what a person is told when they cannot be used."""

import json

import pytest

from pretrainx.cli.config_file import literal, load
from pretrainx.core.config import ABSENT
from pretrainx.core.errors import ConfigError

GOOD = """
from ml_collections import ConfigDict

def get_config(arg=""):
    if arg not in ("", "smoke"):
        raise ValueError(f"unknown variant {arg!r}; there is smoke")
    config = ConfigDict({"train": {"steps": 20 if arg else 2000}, "sources": [{"path": "a"}]})
    config.train.warmup = config.train.get_ref("steps") // 10
    return config
"""


@pytest.fixture
def write(tmp_path):
    def write(text, name="recipe.py"):
        path = tmp_path / name
        path.write_text(text)
        return str(path)

    return write


def refused(spec, overrides=()):
    with pytest.raises(ConfigError) as caught:
        load(spec, list(overrides))
    return caught.value


def test_variants_and_overrides(write):
    path = write(GOOD)
    assert load(path, []) == {"train": {"steps": 2000, "warmup": 200}, "sources": [{"path": "a"}]}
    assert load(path + ":smoke", [])["train"] == {"steps": 20, "warmup": 2}
    values = load(path, [("mesh.data", "-1"), ("mesh.fsdp", "2"), ("data.path", "a/b"), ("train.lr", "1e-3")])
    assert values["mesh"] == {"data": -1, "fsdp": 2} and values["data"] == {"path": "a/b"}
    assert values["train"]["lr"] == 1e-3


def test_an_override_reaches_the_fields_that_refer_to_it(write):
    path = write(GOOD)
    assert load(path, [("train.steps", "50")])["train"] == {"steps": 50, "warmup": 5}
    assert load(path, [("train.warmup", "3")])["train"] == {"steps": 2000, "warmup": 3}


def test_a_required_value_may_come_from_an_override_and_must_come(write):
    path = write(
        "from ml_collections import ConfigDict, config_dict\n"
        "def get_config():\n    return ConfigDict({'data': {'path': config_dict.required_placeholder(str)}})\n"
    )
    assert load(path, [("data.path", "here")]) == {"data": {"path": "here"}}
    error = refused(path)
    assert error.where == "config.data.path" and error.do == "--config.data.path=VALUE"


def test_a_null_section_is_made_by_an_override(write):
    path = write('{"adapt": null}', "config.json")
    assert load(path, [("adapt.name", "lora")]) == {"adapt": {"name": "lora"}}


def test_an_edit_within_the_same_second_is_seen(write, tmp_path):
    assert load(write(GOOD.replace("2000", "2001")), [])["train"]["steps"] == 2001
    assert load(write(GOOD.replace("2000", "2002")), [])["train"]["steps"] == 2002
    assert not (tmp_path / "__pycache__").exists()


@pytest.mark.parametrize(
    "text, value",
    [
        ("20", 20),
        ("1e3", 1000.0),
        ("-1", -1),
        ("true", True),
        ("False", False),
        ("none", None),
        ("null", None),
        ("10,5", (10, 5)),
        ("[1, 2]", [1, 2]),
        ("{'name': 'adam'}", {"name": "adam"}),
        ("'20'", "20"),
        ("runs/a", "runs/a"),
        ("007", "007"),
        ("", ""),
        ("1is", "1is"),
        ("__import__('os')", "__import__('os')"),
        ("(" * 500, "(" * 500),
    ],
)
def test_literals(text, value):
    found = literal(text)
    assert found == value and type(found) is type(value)


def test_json_is_data_only(write):
    path = write(json.dumps({"train": {"steps": 3}}), "config.json")
    assert load(path, [("train.steps", "4")]) == {"train": {"steps": 4}}
    assert "takes no argument" in refused(path + ":smoke").what
    broken = refused(write('{"train":\n {"steps": }}', "broken.json"))
    assert "is not JSON" in broken.what and broken.where.endswith("broken.json:2")
    assert "list" in refused(write("[1]", "list.json")).why


def test_a_missing_file_names_the_nearest(write):
    path = write(GOOD)
    assert "recipe.py" in refused(path.replace("recipe", "recipes")).why
    assert "no config file" in refused("nowhere/at/all.py").what
    assert "neither .py nor .json" in refused("recipe.yaml").why


def test_a_workdir_leads_to_its_config(write, tmp_path):
    write("{}", "config.json")
    assert refused(str(tmp_path)).do == f"--config={tmp_path}/config.json"


@pytest.mark.parametrize(
    "text, where, what, why",
    [
        ("x = 1\n", "recipe.py", "has no get_config", "a config file defines"),
        ("x = (\n", "recipe.py:1", "failed on import", "SyntaxError"),
        ("import json\nimport no_such_module_here\n", "recipe.py:2", "failed on import", "no_such_module_here"),
        ("def get_config(arg=''):\n    x = 1\n    return x / 0\n", "recipe.py:3", "failed", "ZeroDivisionError"),
        ("def get_config(arg=''):\n    return 3\n", "recipe.py", "gives no config", "returned int"),
        ("def get_config(arg=''):\n    raise ValueError('bad')\n", "recipe.py:2", "failed", "bad"),
    ],
)
def test_a_file_that_fails_says_where(write, text, where, what, why):
    error = refused(write(text))
    assert error.where.endswith(where) and what in error.what and why in error.why


def test_an_unknown_variant(write):
    error = refused(write(GOOD) + ":smok")
    assert "refuses the argument 'smok'" in error.what and error.why == "unknown variant 'smok'; there is smoke"
    plain = write("def get_config():\n    return {}\n")
    assert "no variants" in refused(plain + ":smoke").what


def test_a_config_error_of_the_file_is_passed_on(write):
    text = "from pretrainx.core.errors import ConfigError\ndef get_config(arg=''):\n    raise ConfigError('mine')\n"
    assert refused(write(text)).what == "mine"


@pytest.mark.parametrize("key", ["train.steps.x", "sources.every"])
def test_a_key_that_leads_through_a_value(write, key):
    error = refused(write(GOOD), [(key, "1")])
    assert "leads through a value" in error.what and error.where == "config." + key.rpartition(".")[0]


@pytest.mark.parametrize("key", ["", "a..b", ".a", "a."])
def test_a_key_with_an_empty_part(write, key):
    assert "names no key" in refused(write(GOOD), [(key, "1")]).what


def test_a_config_that_needs_its_overrides(tmp_path):
    """A required value that is not set is refused, or left open where only the file itself is looked at."""
    path = tmp_path / "recipe.py"
    path.write_text(
        "from ml_collections import ConfigDict, config_dict\n"
        "def get_config():\n"
        "    return ConfigDict({'train': {'steps': config_dict.required_placeholder(int), 'batch_size': 8}})\n"
    )
    with pytest.raises(ConfigError, match="a required value is not set"):
        load(str(path))
    assert load(str(path), complete=False) == {"train": {"steps": ABSENT, "batch_size": 8}}
    assert load(str(path), [("train.steps", "3")], complete=False) == {"train": {"steps": 3, "batch_size": 8}}
