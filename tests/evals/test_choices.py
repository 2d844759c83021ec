"""Multiple choice: log-probabilities equal sums made by hand, whatever the batch and the padding; normalisations; refusals."""

import json

import jax
import numpy as np
import pytest

from evals.families import LENGTH, TOKENIZER, encode, made, rules
from pretrainx.core.errors import ConfigError, DataError
from pretrainx.data.tokenizer import Tokenizer
from pretrainx.evals.choices import Choices, Pair, Question, pair, prompts, read_questions, scores
from pretrainx.evals.likelihood import likelihood

PAIRS = [pair(TOKENIZER, *texts) for texts in (("ab cd", "x"), ("abcdefgh i", "yes no"), ("", "no"))]


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def log_softmax(logits):
    logits = np.asarray(logits, np.float64)
    return (
        logits
        - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True))
        - logits.max(-1, keepdims=True)
    )


def by_hand(objective, params, prompt, choice):
    """One row, not padded, every log-probability of the choice looked up and added."""
    run = jax.jit(lambda inputs: objective.outputs(params, {}, inputs, ("logits",))["logits"][0])
    vocabulary = objective.vocabulary
    special = vocabulary.special
    prompt = prompt if len(prompt) else np.array([special("eos")])
    name = type(objective).__name__
    logits = lambda **inputs: log_softmax(run({key: np.asarray([value]) for key, value in inputs.items()}))
    if name == "MaskedLm":
        row, total = np.array([special("cls"), *prompt, *choice, special("sep")]), 0.0
        for place in range(1 + len(prompt), 1 + len(prompt) + len(choice)):
            hidden = np.where(np.arange(len(row)) == place, special("mask"), row)
            total += logits(tokens=hidden, segments=np.ones_like(row))[place, row[place]]
        return total
    source = {}
    if name == "SpanCorruption":
        source = {"source": [*prompt, vocabulary.sentinels[0], special("eos")]}
        before = [special("pad"), vocabulary.sentinels[0]]
    elif name == "Denoising":
        source = {"source": [special("bos"), *prompt, special("mask"), special("eos")]}
        before = [special("eos"), special("bos"), *prompt]
    else:
        before = list(prompt)
        source = {"prefix": len(before)} if name == "PrefixLm" else {}
    found = logits(tokens=np.array([*before, *choice[:-1]]), **source)
    return sum(found[len(before) - 1 + place, token] for place, token in enumerate(choice))


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("denoising", "span_corruption, decoder")]


@pytest.mark.parametrize("name", ["autoregressive", "prefix_lm", "masked_lm", "span_corruption", *SLOW])
def test_log_probabilities_are_sums_by_hand(name):
    objective, params = made(name)
    found = likelihood(objective, rules(), params, {}, LENGTH)(PAIRS)
    expected = [by_hand(objective, params, each.prompt, each.choice) for each in PAIRS]
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert len({round(value, 6) for value in found}) == len(PAIRS)


def test_batches_and_padding_change_nothing():
    objective, params = made("autoregressive")
    scored = likelihood(objective, rules(), params, {}, LENGTH)
    whole = scored(PAIRS)
    small = type(scored)(objective, objective, rules(), params, {}, LENGTH, rows=2)
    np.testing.assert_allclose(small(PAIRS[::-1])[::-1], whole, rtol=1e-12)
    narrow = type(scored)(objective, objective, rules(), params, {}, 16)  # one width, the longest row's
    np.testing.assert_allclose(narrow(PAIRS), whole, rtol=1e-12)


def test_a_long_prompt_loses_its_beginning_and_a_long_choice_is_refused():
    objective, params = made("autoregressive")
    scored = likelihood(objective, rules(), params, {}, LENGTH)
    long, tail = (Pair(encode("z" * extra + "a" * LENGTH), encode(" b"), 1) for extra in (9, 0))
    assert scored([long])[0] == scored([tail])[0]
    assert scored([Pair(encode("z" + "a" * (LENGTH - 2)), encode(" b"), 1)])[0] != scored([tail])[0]
    with pytest.raises(ConfigError, match="longer than the model can read"):
        scored([Pair(encode("a"), encode("b" * (LENGTH + 1)), 1)])


def test_the_border_is_where_the_prompt_ends():
    tokenizer = Tokenizer.train(["the cat sat on the mat. " * 30], 300)
    for prompt, choice in (("the cat", "sat on"), ("the cat\n", "mat"), ("", "the"), ("the caf\u00e9", "\u00e9 mat")):
        found = pair(tokenizer, prompt, choice)
        blank = " " if prompt and not prompt.endswith("\n") else ""
        assert tokenizer.decode(found.prompt) == prompt and tokenizer.decode(found.choice) == blank + choice
        joint = tokenizer.encode_batch([f"{prompt}{blank}{choice}"])[0]
        assert np.array_equal(np.concatenate([found.prompt, found.choice]), joint)
        assert found.size == len(choice.encode())
    with pytest.raises(ConfigError, match="ends in a blank"):
        pair(tokenizer, "the cat ", "sat")


def test_normalisations():
    pairs = [Pair(np.arange(3), np.arange(2), 8), Pair(np.arange(3), np.arange(4), 10)]
    found = scores(np.array([-4.0, -6.0]), np.array([-3.0, -9.0]), pairs)
    expected = {"none": [-4, -6], "token": [-2, -1.5], "byte": [-0.5, -0.6], "pmi": [-1, 3]}
    assert {name: values.tolist() for name, values in found.items()} == expected


QUESTIONS = [Question(f"q{number}", ("aa", "b", "cccc"), number % 3) for number in range(6)]


def test_accuracy_of_each_normalisation():
    """The likelihood is made up: by the sum 'b' wins, per byte 'cccc', and against the neutral prompt the right one."""

    def made_up(pairs):
        by_text = {" aa": -3.0, " b": -1.9, " cccc": -4.0}
        asked = [TOKENIZER.decode(each.prompt) for each in pairs]
        right = [
            QUESTIONS[int(text[-1])].choices[QUESTIONS[int(text[-1])].answer] if "q" in text else "" for text in asked
        ]
        texts = [TOKENIZER.decode(each.choice) for each in pairs]
        return np.array([by_text[text] + 0.01 * (text == " " + best) for text, best in zip(texts, right, strict=True)])

    found = Choices(made_up, TOKENIZER, QUESTIONS)()
    assert found == {"chance": pytest.approx(1 / 3), "none": 1 / 3, "token": 1 / 3, "byte": 1 / 3, "pmi": 1.0}
    shown = Choices(made_up, TOKENIZER, QUESTIONS, demonstrations=2)()
    assert shown["pmi"] == 1.0 and shown["pmi_std"] == 0.0 and "none_std" in shown
    with pytest.raises(ConfigError, match="at least 3"):
        Choices(made_up, TOKENIZER, QUESTIONS, demonstrations=1, draws=2)()


def test_demonstrations():
    first, again, other = (prompts(QUESTIONS, 2, 0, draw) for draw in (0, 0, 1))
    assert first == again != other
    for question, prompt in zip(QUESTIONS, first, strict=True):
        *shown, last = prompt.split("\n\n")
        assert last == question.prompt and len(shown) == len(set(shown)) == 2
        solved = {each.solved() for each in QUESTIONS if each is not question}
        assert set(shown) <= solved
    pool = [Question("p", ("yes", "no"), 1)]
    assert prompts(QUESTIONS, 1, 0, 0, pool)[3] == "p no\n\nq3" and prompts(QUESTIONS, 0, 0, 0)[3] == "q3"
    with pytest.raises(ConfigError, match="too few"):
        prompts(QUESTIONS, 6, 0, 0)


@pytest.mark.parametrize("prompt", ["q", "q\n", ""])
def test_a_choice_is_written_alike_everywhere(prompt):
    """Scored, demonstrated, and behind the neutral prompt the same tokens stand for a choice, whatever ends the prompt."""
    asked = []

    def told(pairs):
        asked.extend(pairs)
        return np.zeros(len(pairs))

    question = Question(prompt, ("yes", "no"), 0)
    Choices(told, TOKENIZER, [question])()
    neutral, scored = asked[:2], asked[2:]
    written = [TOKENIZER.decode(each.choice) for each in scored]
    assert [TOKENIZER.decode(each.choice) for each in neutral] == written
    assert question.solved() == prompt + written[0]


def test_questions_of_a_file(tmp_path):
    path = tmp_path / "questions.jsonl"
    items = [{"prompt": "a", "choices": ["b", "c"], "answer": 1}, {"question": "d", "choices": ["e", "f"], "answer": 0}]
    path.write_text("\n\n".join(map(json.dumps, items)))
    assert read_questions(path) == [Question("a", ("b", "c"), 1), Question("d", ("e", "f"), 0)]
    for spoilt in ({"answer": 2}, {"answer": True}, {"choices": ["b"]}, {"choices": ["b", ""]}, {"prompt": 3}):
        path.write_text(json.dumps(items[0]) + "\n" + json.dumps(items[0] | spoilt))
        with pytest.raises(DataError, match="questions.jsonl:2"):
            read_questions(path)
    path.write_text("\n")
    with pytest.raises(DataError, match="no questions"):
        read_questions(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_questions(tmp_path / "nowhere.jsonl")
