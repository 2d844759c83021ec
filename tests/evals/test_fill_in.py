"""What models fill in, shown and counted; the trigram model on the same hidden places; sources for generation."""

import re

import jax
import numpy as np
import pytest

from evals.families import TOKENIZER, batch, encode, made, rules
from pretrainx.adapt.mixture import Mixture
from pretrainx.evals import ngram
from pretrainx.evals.baseline import Baseline, restored
from pretrainx.evals.continuation import generate
from pretrainx.evals.fill_in import FillIns, by_task, named, predicted, visible
from pretrainx.evals.held_out import HeldOut
from pretrainx.evals.sampled import Sampled, distinct, judged

TEXT = encode(" ".join(np.random.default_rng(7).choice(["alpha", "beta.", "gamma"], 400)))


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def trigram():
    return ngram.fit(TEXT, TOKENIZER.vocabulary.size)


def seen(objective, given, index=0):
    (found,) = by_task(objective, rules(), 0, index, given).values()
    return found


def fill_ins(objective, given, **fields):
    return FillIns(objective, rules(), 0, given, TOKENIZER.decode, TOKENIZER.vocabulary, **fields)


def test_masked_words_are_shown_with_what_was_guessed():
    objective, params = made("masked_lm, two sentences")
    given = batch(objective)
    text = fill_ins(objective, given, rows=2)(params, {})
    assert text == fill_ins(objective, given, rows=2)(params, {})
    observation = seen(objective, given)
    truth = observation.targets["tokens"]
    guess = predicted(objective, rules(), params, {}, observation.inputs, objective.vocabulary.size)
    hidden = observation.weights["nll"] > 0
    for row in range(2):
        right = (guess == truth)[row][hidden[row]].sum()
        assert f"row {row}: {right} of {hidden[row].sum()} right" in text
        for place in np.flatnonzero(hidden[row]):
            first = text_of_token(guess[row, place])
            mark = "+" if guess[row, place] == truth[row, place] else "-"
            found = re.search(
                rf"\[\[{re.escape(text_of_token(truth[row, place]))} -> {re.escape(first)}, (.*?)\]\]", text
            )
            assert found[1].endswith(f" {mark}") and found[1].count(", ") == 1, "three guesses, the best first"
    assert text.count("[[") == hidden[:2].sum() and text.count("<cls>") == 2 and "row 2" not in text


def text_of_token(token):
    return visible(named([token], TOKENIZER.vocabulary, TOKENIZER.decode))


def test_blanks_are_seen_where_a_token_stands_alone():
    assert [visible(text) for text in ("a", " the", "  ", "\n ", "a b")] == ["a", "␣the", "␣␣", "\\n␣", "a b"]


def test_spans_are_shown_beside_the_truth():
    objective, params = made("span_corruption")
    given = batch(objective)
    text = fill_ins(objective, given, rows=1)(params, {})
    observation = seen(objective, given)
    target = observation.targets[0][observation.weights["nll"][0] > 0]
    spans = np.split(target[:-1], np.flatnonzero(np.isin(target[:-1], TOKENIZER.vocabulary.sentinels)))[1:]
    assert f"of {len(spans)} spans right, greedy" in text and "temperature 0.8" in text
    for index, span in enumerate(spans):
        assert f"<S{index}>" in text and f"truth  [{TOKENIZER.decode(span[1:])}]" in text
    assert text.split("\n")[1].count("<S") == len(spans)
    assert set(fill_ins(objective, given).exact_spans(params, {})) == {"exact_spans", "sampled_exact_spans"}


def test_spans_that_are_written_as_they_were_are_counted(monkeypatch):
    """Greedy text is the truth with one token of one span changed and another span left out, sampled text the truth."""
    objective, params = made("span_corruption")
    given = batch(objective)
    shown = fill_ins(objective, given)
    observation = shown._seen()[""]
    truth = [shown._target(observation, row) for row in range(3)]
    marks = [np.flatnonzero(np.isin(ids, TOKENIZER.vocabulary.sentinels)) for ids in truth]
    changed = [ids.copy() for ids in truth]
    changed[0][marks[0][0] + 1] += 1
    changed[1] = changed[1][marks[1][1] :]  # without the first span
    written = lambda *arguments: changed if arguments[-1] == 0 else truth
    monkeypatch.setattr(shown, "_written", written)
    count = sum(map(len, marks))
    assert shown.exact_spans(params, {}) == {"exact_spans": (count - 2) / count, "sampled_exact_spans": 1.0}


def test_a_task_of_a_mixture_that_hides_nothing_is_left_out():
    objective, params = made("masked_lm, two sentences")
    other = made("autoregressive")[0]
    mixture = Mixture((("words", objective, 0.5), ("next", other, 0.5)))
    both = {"words": batch(objective), "next": batch(other)}
    text = fill_ins(mixture, both, rows=2)(params, {"words": {}, "next": {}})
    assert text.count("=== task words, row") == text.count("===") / 2 == 2 and "[[" in text


@pytest.mark.slow
def test_noised_text_and_its_reconstruction():
    objective, params = made("denoising")
    given = batch(objective)
    lines = fill_ins(objective, given, rows=2)(params, {}).split("\n")
    assert lines[0] == "=== row 0 ==="
    assert [line.split()[0] for line in lines[1:5]] == ["source", "truth", "greedy", "temperature"]
    assert "<mask>" in lines[1] and "<mask>" not in lines[2]
    assert fill_ins(objective, given).exact_spans(params, {}) == {}


@pytest.mark.parametrize("name", ["span_corruption", "span_corruption, decoder"])
def test_generation_from_a_source_is_recomputed(name):
    """With a cache and all rows at once, the tokens that the whole decoder gives row by row."""
    objective, params = made(name)
    inputs = seen(objective, batch(objective)).inputs
    source = {key: inputs[key] for key in ("source", "source_length")}
    begin = [inputs["tokens"][row, :1] for row in range(3)]
    end = objective.vocabulary.special("eos")
    found = generate(objective, rules(), params, {}, begin, 6, [0.0] * 3, end, 0, source)
    run = jax.jit(lambda inputs: objective.outputs(params, {}, inputs, ("logits",))["logits"])
    written = np.full((3, 7), objective.vocabulary.special("pad"), np.int32)
    written[:, 0] = [row[0] for row in begin]
    for place in range(6):
        written[:, place + 1] = np.asarray(run(source | {"tokens": written}))[:, place].argmax(-1)
    for row, ids in zip(written[:, 1:].tolist(), found, strict=True):
        assert ids.tolist() == (row[: row.index(end)] if end in row else row)
    assert len({tuple(ids.tolist()) for ids in found}) > 1, "it depends on the source"


def test_the_baseline_fills_in_the_same_masks(trigram):
    """Its places are those of held-out loss, and the model's share of hits is that loss's accuracy, of tasks together too."""
    objective, params = made("masked_lm")
    # A model that says "a" everywhere is right on some masks and wrong on others.
    params = params | {"logit_bias": params["logit_bias"].at[encode("a")].add(100.0)}
    batches = [batch(objective, seed=seed) for seed in (0, 1)]
    batches[1]["valid"][2] = False
    found = Baseline(objective, rules(), 0, batches, trigram, TOKENIZER.vocabulary)(params, {})
    held_out = HeldOut(objective, rules(), 0, batches)(params, {}, 0)
    assert 0.2 < found["model_accuracy"] == pytest.approx(held_out["metric/accuracy"])
    hits, best = [], []
    for index, given in enumerate(batches):
        observation = seen(objective, given, index)
        for row in np.flatnonzero(given["valid"]):
            places = np.flatnonzero(observation.weights["nll"][row])
            tokens = observation.targets[row]
            hits.append(ngram.fill_in(trigram, tokens, places, hidden=True) == tokens[places])
            best.append(ngram.fill_in(trigram, tokens, places) == tokens[places])
    assert found["tokens"] == sum(map(len, hits)) and found["accuracy"] == np.concatenate(hits).mean() > 0.5
    assert found["all_neighbours"] == np.concatenate(best).mean() > max(0.7, found["accuracy"])
    tasks = Mixture((("one", objective, 0.5), ("two", objective, 0.5)))
    both, extras = {"one": batches[0], "two": batches[0]}, {"one": {}, "two": {}}
    apart = HeldOut(tasks, rules(), 0, [both])(params, extras, 0)
    hidden = {name: each.weights["nll"].sum() for name, each in by_task(tasks, rules(), 0, 0, both).items()}
    together = sum(apart[f"metric/{name}/accuracy"] * count for name, count in hidden.items()) / sum(hidden.values())
    mixed = Baseline(tasks, rules(), 0, [both], trigram, TOKENIZER.vocabulary)(params, extras)
    assert mixed["model_accuracy"] == pytest.approx(together) and mixed["tokens"] == sum(hidden.values())
    fewer = Baseline(objective, rules(), 0, batches, trigram, TOKENIZER.vocabulary, enough=1)(params, {})
    assert fewer["tokens"] == sum(map(len, hits[:3]))


def test_the_baseline_fills_in_spans(trigram):
    objective, params = made("span_corruption")
    given = batch(objective)
    found = Baseline(objective, rules(), 0, [given], trigram, TOKENIZER.vocabulary)(params, {})
    observation = seen(objective, given)
    count, hits = 0, 0
    for row in range(3):
        source, target = observation.inputs["source"][row], observation.targets[row]
        text, inside, places = restored(source, target, TOKENIZER.vocabulary)
        # The text is whole again, behind it the source's own end.
        assert text[:-1].tolist() == given["tokens"][row].tolist()
        assert text[inside].tolist() == target[places].tolist()
        assert not np.isin(target[places], (*TOKENIZER.vocabulary.sentinels, objective.vocabulary.special("eos"))).any()
        count += len(places)
        hits += (ngram.next_words(trigram, text, inside) == text[inside]).sum()
    assert found["tokens"] == count == 3 * objective.lengths.noise and found["accuracy"] == hits / count
    denoising, params = made("denoising")
    assert Baseline(denoising, rules(), 0, [batch(denoising)], trigram, TOKENIZER.vocabulary)(params, {}) == {}


def test_samples_are_judged_beside_the_text(trigram):
    objective, params = made("autoregressive")
    end = objective.vocabulary.special("eos")
    texts = [TEXT[:30], np.concatenate([TEXT[40:60], [end], TEXT[60:69]])]
    found = Sampled(objective, rules(), texts, trigram, end, 0)(params, {})
    true = trigram.losses(TEXT[:30])[14:], trigram.losses(TEXT[40:60])[14:]
    assert found["held_out/trigram_loss"] == pytest.approx(np.concatenate(true).mean())
    assert found["held_out/tokens"] == 20 and found["trigram_loss"] > found["held_out/trigram_loss"]
    assert {"distinct_1", "greedy/distinct_3", "greedy/trigram_loss"} <= set(found)


def test_distinct():
    rows = [np.array([1, 2, 1, 2]), np.array([1, 2])]
    assert (
        distinct(rows, 1) == 2 / 6 and distinct(rows, 2) == 2 / 4 and distinct(rows, 3) == 1 and distinct(rows, 5) == 0
    )
    model, nothing = ngram.fit(np.arange(9), 9), np.zeros(0, np.int64)
    prompts = [np.array([1]), np.array([2, 3])]
    assert judged(model, prompts, [nothing, nothing])["tokens"] == 0
    found = judged(model, prompts, [nothing, np.array([4, 5])])
    assert found["tokens"] == 2 and found["trigram_loss"] == pytest.approx(model.losses(np.arange(2, 6))[1:].mean())
