"""Adapted runs in the files of other libraries: updates merged, heads left out, what cannot be merged refused."""

from pathlib import Path

import numpy as np
import pytest

from pretrainx.cli.config_file import load as load_config
from pretrainx.core.errors import ConfigError
from pretrainx.runs.interop import export_model, import_model
from pretrainx.runs.load import load
from pretrainx.runs.train import train
from pretrainx.runs.unwrapped import unwrapped

CONFIG = Path(__file__).parents[2] / "configs" / "adapt" / "rotten_tomatoes.py"
pytestmark = [pytest.mark.slow, pytest.mark.rotated, pytest.mark.xdist_group("adapted interop")]


def trained(workdir, **adapt):
    values = load_config(f"{CONFIG}:smoke") | {"adapt": adapt}
    values["model"] |= {"dropout": 0.0}
    # Far enough from the start for updates to show.
    values["schedule"] |= {"peak": 0.05}
    assert train(values, workdir, say=lambda line: None) == 0
    return load(workdir)


def test_a_run_with_lora_goes_out_as_one_model(tmp_path):
    run = trained(tmp_path / "run", name="lora", targets=".*(query|up)", rank=4)
    tokens = np.asarray(run.tokenizer.encode_batch(["Return the next event of the queue."])[0])[None, :16]
    inside = run.outputs({"tokens": tokens}, ["hidden", "logits"])
    plain = unwrapped(run)
    assert not any("lora" in str(name) for name in _names(plain.params)) and any(
        "lora" in name for name in _names(run.params)
    )
    assert np.allclose(plain.outputs({"tokens": tokens}, ["logits"])["logits"], inside["logits"], atol=1e-5)
    said = []
    export_model(tmp_path / "run", tmp_path / "hf", say=said.append)
    assert said[0] == "the head of the task is left out: task"
    import_model(tmp_path / "hf", tmp_path / "back", say=lambda line: None)
    outside = load(tmp_path / "back").outputs({"tokens": tokens}, ["hidden"])["hidden"]
    assert np.allclose(outside, inside["hidden"], atol=1e-5)
    base = unwrapped(run).params["layers"]["attention"]["query"]["kernel"]
    assert np.abs(np.asarray(base) - np.asarray(run.params["layers"]["attention"]["query"]["kernel"])).max() > 1e-3


def test_what_stands_beside_the_weights_is_refused(tmp_path):
    trained(tmp_path / "run", name="adapter", width=4)
    with pytest.raises(ConfigError, match="no place in the model's own weights") as caught:
        export_model(tmp_path / "run", tmp_path / "hf")
    assert caught.value.where == "config.adapt.name" and "Adapter" in caught.value.why
    assert not (tmp_path / "hf").exists()


def _names(tree, prefix=""):
    for name, value in tree.items():
        yield from _names(value, f"{prefix}{name}/") if isinstance(value, dict) else [f"{prefix}{name}"]
