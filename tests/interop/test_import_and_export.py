"""The commands end to end: import, train from it, export, import again; and what they refuse."""

import json
import re

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from interop.made import ALL, FEATURES, GPT2, LLAMA, VOCAB, make, tensors
from pretrainx.cli.main import COMMANDS, main
from pretrainx.core import paths
from pretrainx.core.errors import ConfigError
from pretrainx.core.json_lines import read, read_metrics
from pretrainx.runs.interop import export_model, import_model
from pretrainx.runs.load import load
from pretrainx.training.restore import read_meta

pytestmark = pytest.mark.xdist_group("interop")


@pytest.fixture
def corpus(tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(4):
        (folder / f"{number}.txt").write_text(" ".join(rng.choice(["one", "two", "three"], 400)))
    return folder


def command(*words):
    return main([str(word) for word in words])


def same(one, other):
    pairs = zip(paths.leaves(one), paths.leaves(other), strict=True)
    return all(a == b and np.array_equal(x, y) for (a, x), (b, y) in pairs)


def error(capsys):
    text = capsys.readouterr().err
    assert text.startswith("error: ") and "Traceback" not in text
    return text


def test_the_flags_are_frozen():
    forms = {name: [flag.form() for flag in COMMANDS[name].flags] for name in ("import", "export")}
    assert forms["import"] == ["--source=HF_DIR", "--workdir=DIR"]
    assert forms["export"] == ["--workdir=DIR", "--target=HF_DIR", "--step=N"]


TRAINED = ("gpt2", "llama", "pairs", "t5", "bart")
FORMS = {
    "bert": ("masked_lm", "fill-mask", "A masked language model: 3 layers"),
    "t5": ("span_corruption", "text2text-generation", "model: 3 layers in the encoder and 2 in the decoder"),
    "bart": ("denoising", "text2text-generation", "A sequence-to-sequence language model"),
}


@pytest.mark.parametrize(
    "values",
    [
        pytest.param(ALL[name], marks=[pytest.mark.slow] * (name in ("pairs", "bart", "t5", "llama")))
        for name in TRAINED
    ],
    ids=TRAINED,
)
def test_there_and_back(tmp_path, corpus, values):
    source, workdir, target = make(tmp_path / "hf", values), tmp_path / "imported", tmp_path / "exported"
    assert command("import", f"--source={source}", f"--workdir={workdir}") == 0
    assert command("export", f"--workdir={workdir}", f"--target={target}") == 0
    found = load_file(target / "model.safetensors")
    assert all(found[name].tobytes() == array.tobytes() for name, array in tensors(values).items())
    assert (target / "tokenizer.json").read_bytes() == (source / "tokenizer.json").read_bytes()
    assert (target / "generation_config.json").is_file() and "Licence: not stated" in (target / "README.md").read_text()

    # A run that starts from it, exported and imported again: the parameters that training ended with.
    trained, recipe = tmp_path / "trained", json.loads((workdir / "config.json").read_text())
    words = ["train", f"--config={workdir / 'config.json'}", f"--workdir={trained}", f"--config.init_from={workdir}"]
    words += ["--config.data.source=text", f"--config.data.paths={[str(corpus)]}", "--config.data.length=32"]
    words += [
        "--config.data.held_out=0.3",
        "--config.train.steps=2",
        "--config.schedule.warmup=0",
        "--config.evals.tokens=64",
    ]
    assert recipe["train"]["batch_size"] == 8 and command(*words) == 0
    events = [event for event in read(trained / "events.jsonl") if event["kind"] == "warning"]
    assert not [event for event in events if "initialised" in event["text"]]
    assert command("export", f"--workdir={trained}", f"--target={tmp_path / 'second'}", "--step=2") == 0
    assert command("import", f"--source={tmp_path / 'second'}", f"--workdir={tmp_path / 'again'}") == 0
    first, last, again = load(workdir), load(trained), load(tmp_path / "again")
    assert same(last.params, again.params) and not same(first.params, last.params)
    assert first.tokenizer.vocabulary == last.tokenizer.vocabulary == again.tokenizer.vocabulary
    card = (tmp_path / "second" / "README.md").read_text()
    objective, task, kind = FORMS.get(
        values["model_type"], ("autoregressive", "text-generation", "A causal language model")
    )
    assert recipe["objective"]["name"] == objective and f"pipeline_tag: {task}\n" in card and kind in card
    assert "step 2 of 2" in card and "started from: imported" in card and "eval/held_out/loss" in card


def test_the_loss_is_over_the_ids_of_the_source(tmp_path):
    """The padding that its tokenizer lacks has an id here, and no share in any softmax."""
    import_model(make(tmp_path / "hf", GPT2), tmp_path / "run", say=lambda line: None)
    run = load(tmp_path / "run")
    assert (run.tokenizer.vocabulary.size, run.tokenizer.vocabulary.predicted) == (VOCAB + 1, VOCAB)
    assert run.tokenizer.vocabulary.special("pad") == VOCAB and run.tokenizer.decode([VOCAB, 65]) == "A"
    rows = np.random.default_rng(0).integers(0, VOCAB, (2, 41)).astype(np.int32)
    logits = np.asarray(run.outputs({"tokens": rows[:, :-1]}, ["logits"])["logits"], np.float64)[..., :VOCAB]
    nll = np.log(np.exp(logits).sum(-1)) - np.take_along_axis(logits, rows[:, 1:, None], -1)[..., 0]
    assert abs(run.loss({"tokens": rows})["loss"] - nll.mean()) < 1e-5
    rows[:, 30:] = VOCAB
    assert abs(run.loss({"tokens": rows})["loss"] - nll[:, :29].mean()) < 1e-5


def test_features_of_a_model_without_a_head(tmp_path, corpus, capsys):
    """Imported, used and exported; to train it is to give it a head, which is said."""
    source, workdir = make(tmp_path / "hf", FEATURES), tmp_path / "run"
    assert command("import", f"--source={source}", f"--workdir={workdir}") == 0
    said = capsys.readouterr().out
    assert "it gives features" in said
    run = load(workdir)
    framed = run.tokenizer.encode_batch(["a text", "another"], framed=False)
    tokens = np.full((2, 9), run.tokenizer.vocabulary.special("pad"), np.int32)
    for row, ids in zip(tokens, framed, strict=True):
        row[: len(ids)] = ids
    outputs = run.outputs({"tokens": tokens}, ["hidden", "features", "pooled"])
    mean = np.asarray(outputs["hidden"])[0, :6].mean(0)
    assert np.abs(np.asarray(run.features({"tokens": tokens}))[0] - mean).max() < 1e-6
    assert outputs["pooled"].shape == (2, 15)
    assert command("export", f"--workdir={workdir}", f"--target={tmp_path / 'out'}") == 0
    (count,) = re.findall(r", (\S+ parameters), step 0 of", capsys.readouterr().out)
    assert f", {count}, step 0" in said, "the padding of tables counts neither here nor there"
    card = (tmp_path / "out" / "README.md").read_text()
    assert "pipeline_tag: feature-extraction" in card and "A text encoder without a head" in card
    capsys.readouterr()
    words = [f"--config={workdir / 'config.json'}", f"--workdir={tmp_path / 'on'}", "--config.data.length=32"]
    words += ["--config.data.source=text", f"--config.data.paths={[str(corpus)]}", "--config.data.held_out=0.3"]
    assert command("train", *words, "--config.train.steps=2", "--config.schedule.warmup=0") == 2
    assert "--config.model.head=transform" in error(capsys)


def test_a_reader_of_prefixes_has_no_form_there(tmp_path, corpus, capsys):
    from pretrainx.runs.train import train

    data = {"name": "text", "source": "text", "paths": [str(corpus)], "tokenizer": "bytes", "length": 24}
    config = {"objective": {"name": "prefix_lm"}, "model": {"name": "decoder", "width": 12, "depth": 1, "heads": 3}}
    config |= {"data": {**data, "held_out": 0.3}, "schedule": {"name": "cosine", "warmup": 0}, "evals": {"tokens": 64}}
    config |= {"train": {"steps": 1, "batch_size": 8}}
    assert train(config, tmp_path / "run", say=lambda line: None) == 0
    assert command("export", f"--workdir={tmp_path / 'run'}", f"--target={tmp_path / 'out'}") == 2
    assert "reads its prefix both ways" in error(capsys) and not (tmp_path / "out").exists()


def test_training_on_in_the_imported_workdir(tmp_path, corpus):
    """It has read none of our data, and has no optimizer's state: neither is a change, or worth a warning."""
    workdir = tmp_path / "run"
    import_model(make(tmp_path / "hf", LLAMA), workdir, say=lambda line: None)
    before = load(workdir).loss({"tokens": np.full((1, 33), 80, np.int32)})["loss"]
    words = ["train", f"--config={workdir / 'config.json'}", f"--workdir={workdir}", "--config.data.length=32"]
    words += ["--config.data.source=text", f"--config.data.paths={[str(corpus)]}", "--config.data.held_out=0.3"]
    words += [
        "--config.train.steps=2",
        "--config.schedule.warmup=0",
        "--config.train.log_every=1",
        "--config.evals.tokens=64",
    ]
    assert command(*words) == 0
    assert [record["step"] for record in read_metrics(workdir / "metrics.jsonl")] == [1, 2]
    warnings = [event["text"] for event in read(workdir / "events.jsonl") if event["kind"] == "warning"]
    assert not [text for text in warnings if "optimizer" in text or "data" in text]
    assert (
        load(workdir).step == 2 and load(workdir, 0).loss({"tokens": np.full((1, 33), 80, np.int32)})["loss"] == before
    )


def test_what_an_imported_checkpoint_says(tmp_path):
    import_model(make(tmp_path / "hf", LLAMA), tmp_path / "run", say=lambda line: None)
    meta = read_meta(tmp_path / "run" / "checkpoints", 0)
    assert meta["data"]["imported"] == "hf" and meta["config"]["model"]["rotary_base"] == 30000.0
    assert not [path for path in meta["leaves"] if path.startswith("optimizer/")]
    # Moved, it still finds its tokenizer.
    (tmp_path / "run").rename(tmp_path / "moved")
    assert load(tmp_path / "moved").tokenizer.end == 256


def test_precision_of_the_source(tmp_path):
    """bfloat16 and float16 become float32 here, which trains, and are written again as they were."""
    for dtype in ("bfloat16", "float16"):
        source = make(tmp_path / dtype, LLAMA, tensors(LLAMA, dtype))
        import_model(source, tmp_path / f"{dtype}-run", say=lambda line: None)
        assert {str(leaf.dtype) for leaf in jax.tree.leaves(load(tmp_path / f"{dtype}-run").params)} == {"float32"}
        export_model(tmp_path / f"{dtype}-run", tmp_path / f"{dtype}-out", say=lambda line: None)
        found = load_file(tmp_path / f"{dtype}-out" / "model.safetensors")
        assert all(found[name].tobytes() == array.tobytes() for name, array in tensors(LLAMA, dtype).items())


def test_refusals_of_import(tmp_path, capsys):
    source = make(tmp_path / "hf", LLAMA)
    assert command("import", f"--source={source}", f"--workdir={source}") == 2
    assert "not empty" in error(capsys)
    assert command("import", f"--source={source}") == 2 and "--workdir" in error(capsys)
    (source / "tokenizer.json").unlink()
    assert command("import", f"--source={source}", f"--workdir={tmp_path / 'run'}") == 3
    assert "no tokenizer.json" in error(capsys) and not (tmp_path / "run").exists()
    make(tmp_path / "hf", LLAMA, vocab_size=200)
    assert command("import", f"--source={source}", f"--workdir={tmp_path / 'run'}") == 3
    assert "model.embed_tokens.weight: [257, 15], expected [200, 15]" in error(capsys)
    assert not (tmp_path / "run").exists()
    small = {name: array[:200] if array.shape[0] == VOCAB else array for name, array in tensors(LLAMA).items()}
    make(tmp_path / "hf", LLAMA, small, vocab_size=200)
    assert command("import", f"--source={source}", f"--workdir={tmp_path / 'run'}") == 3
    assert "257 ids, the model's table has 200 rows" in error(capsys)


def test_refusals_of_export(tmp_path, capsys):
    source, workdir = make(tmp_path / "hf", GPT2), tmp_path / "run"
    assert command("export", f"--workdir={source}", f"--target={tmp_path / 'out'}") == 2
    import_model(source, workdir, say=lambda line: None)
    capsys.readouterr()
    assert command("export", f"--workdir={workdir}", f"--target={source}") == 2 and "target is not empty" in error(
        capsys
    )
    assert command("export", f"--workdir={workdir}", f"--target={tmp_path / 'out'}", "--step=7") == 4
    assert "no checkpoint of step 7" in error(capsys)
    for step in ("last", "\u00b2", "-1"):
        assert command("export", f"--workdir={workdir}", f"--target={tmp_path / 'out'}", f"--step={step}") == 2
        assert "whole number" in error(capsys) and not (tmp_path / "out").exists()


def test_a_run_of_ours_is_exported_or_refused(tmp_path, corpus):
    """GPT-2's habits and our own tokenizer go out; the quickstart's habits have no form there."""
    from pretrainx.runs.train import train

    def config(**model):
        data = {"name": "text", "source": "text", "paths": [str(corpus)], "tokenizer": "bytes", "length": 24}
        return {
            "model": {"name": "decoder", "width": 12, "depth": 2, "heads": 3, **model},
            "data": {**data, "held_out": 0.3},
            "ema": {"decay": 0.5},
            "train": {"steps": 2, "batch_size": 8},
            "schedule": {"name": "cosine", "warmup": 0},
            "evals": {"tokens": 64},
        }

    say = lambda line: None
    assert train(config(), tmp_path / "ours", say=say) == 0
    export_model(tmp_path / "ours", tmp_path / "out", say=say)
    values = json.loads((tmp_path / "out" / "config.json").read_text())
    names = ("model_type", "vocab_size", "n_positions", "eos_token_id", "pad_token_id")
    assert [values[name] for name in names] == ["gpt2", 258, 24, 1, 0]
    named = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert (named["eos_token"], named["pad_token"]) == ("<|eos|>", "<|pad|>")
    import_model(tmp_path / "out", tmp_path / "again", say=say)
    ours, again = load(tmp_path / "ours"), load(tmp_path / "again")
    # The averaged parameters, without the rows that no id has: they are cut at the export and zero here.
    real = lambda path, leaf: leaf[:258] if path == "token/table" else leaf
    assert same(*(paths.map_leaves(real, run.params) for run in (ours, again)))
    assert again.tokenizer.digest == ours.tokenizer.digest

    habits = {"positions": "rotary", "norm": "rms", "activation": "relu_squared", "qk_norm": True, "bias": False}
    assert train(config(head_dim=4, **habits), tmp_path / "own", say=say) == 0
    with pytest.raises(ConfigError, match="no form as LlamaForCausalLM") as caught:
        export_model(tmp_path / "own", tmp_path / "nowhere", say=say)
    assert caught.value.where == "config.model.gated, config.model.qk_norm, config.model.activation"
