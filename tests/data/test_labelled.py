"""Labelled text: splits by group, rows by form, cutting, few labels, fingerprints; what is bad, damaged or refused."""

import csv
import dataclasses
import json

import numpy as np
import pytest

from pretrainx.core.errors import ConfigError, DataError
from pretrainx.core.labelled import LabelledRows
from pretrainx.data.directory import held_kind
from pretrainx.data.labelled import LabelledConfig, prepare_labelled, train_tokenizer
from pretrainx.data.prepared_labelled import CUT, open_labelled
from pretrainx.data.splits import fraction
from pretrainx.data.verify import verify

MARKS = ("cls", "sep")
PAD, EOS, CLS, SEP = 0, 1, 258, 259  # of the tokenizer of bytes
FORM = LabelledRows(16, ("cls",), ("sep",), ("sep",))


def quiet(_):
    """A log that nobody reads."""


def review(number):
    return {"text": f"review {number}", "label": "good" if number % 3 else "bad", "film": f"film {number // 4}"}


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def config_of(directory, records, **changes):
    paths = (write(directory / "all.jsonl", records),)
    return LabelledConfig(**{"paths": paths, "tokenizer": "bytes", "specials": MARKS, "held_out": 0.3} | changes)


def ids(text):
    return [byte + 2 for byte in text.encode()]


def row(*parts, width):
    """Marks and texts as one padded row."""
    flat = [token for part in parts for token in (ids(part) if isinstance(part, str) else [part])]
    return flat + [PAD] * (width - len(flat))


@pytest.fixture
def made(tmp_path):
    config = config_of(tmp_path, [review(number) for number in range(60)], group="film")
    return prepare_labelled(config, tmp_path / "data", quiet)


def test_a_group_is_in_one_split_and_its_name_alone_decides(tmp_path, made):
    texts = {split: [made.tokenizer.decode(each) for each in columns.text] for split, columns in both(made).items()}
    held_out = [n for n in range(60) if fraction(f"film {n // 4}") < 0.3]
    assert texts["held_out"] == [f"review {n}" for n in held_out] and held_out
    assert texts["train"] == [f"review {n}" for n in range(60) if n not in held_out]
    more = config_of(tmp_path, [review(number) for number in range(90)], group="film")
    later = prepare_labelled(more, tmp_path / "more", quiet)
    assert [later.tokenizer.decode(each) for each in later.columns("held_out").text][: len(held_out)] == texts[
        "held_out"
    ]


def both(prepared):
    return {split: prepared.columns(split) for split in ("train", "held_out")}


def test_rows_are_texts_between_marks_with_their_class(made):
    assert made.about.classes == ("bad", "good") and made.splits == ("train", "held_out")
    rows = made.rows("held_out", FORM)
    held_out = [n for n in range(60) if fraction(f"film {n // 4}") < 0.3]
    batch = rows.rows(range(len(rows)))
    assert batch["label"].tolist() == [int(n % 3 > 0) for n in held_out]
    assert batch["tokens"].tolist() == [row(CLS, f"review {n}", SEP, width=16) for n in held_out]
    assert rows[1]["tokens"].tolist() == batch["tokens"][1].tolist()
    with pytest.raises(IndexError):
        rows[len(rows)]


@pytest.mark.parametrize(
    "first, second, kept, rest",
    [
        ("abcdefgh", "ijklmnop", "abcde", "ijkl"),
        ("abcdefgh", "ij", "abcdefg", "ij"),
        ("ab", "cdefghijkl", "ab", "cdefghi"),
    ],
)
def test_of_a_pair_the_longer_text_is_cut(tmp_path, first, second, kept, rest):
    records = [{"text": first, "other": second, "label": n % 2, "group": n} for n in range(20)]
    config = config_of(tmp_path, records, second="other", group="group")
    form = dataclasses.replace(FORM, width=12, pairs=True, types=True)
    rows = prepare_labelled(config, tmp_path / "data", quiet).rows("train", form)
    assert rows[0]["tokens"].tolist() == row(CLS, kept, SEP, rest, SEP, width=12)
    size = len(kept) + len(rest) + 3
    assert rows[0]["types"].tolist() == [0] * (len(kept) + 2) + [1] * (len(rest) + 1) + [0] * (12 - size)
    assert rows.cut == len(rows)


def test_an_answer_is_found_in_its_row_or_is_cut_off(tmp_path):
    context = "the red hen sat"
    answers = [{"start": 4, "text": "red"}, {"start": 12, "text": "sat"}]
    records = [{"q": f"who {n}", "c": context, "label": answers[n % 2], "group": n} for n in range(20)]
    config = config_of(tmp_path, records, text="q", second="c", target="span", group="group")
    prepared = prepare_labelled(config, tmp_path / "data", quiet)
    form = dataclasses.replace(FORM, width=20, pairs=True, target="span")
    rows = prepared.rows("train", form)
    chosen = [n for n in range(20) if fraction(str(n)) >= 0.3]
    for number, found in zip(chosen, (rows[index] for index in range(len(rows))), strict=True):
        question = len(f"who {number}")
        room = 20 - 3 - question
        start = 2 + question
        assert found["context"].tolist() == [start <= place < start + room for place in range(20)]
        if number % 2:
            assert found["span"].tolist() == list(CUT)
        else:
            first, last = found["span"]
            assert prepared.tokenizer.decode(found["tokens"][first : last + 1]) == "red"


def test_an_answer_inside_a_token_is_that_token(tmp_path):
    """A trained tokenizer: an answer that begins inside a token is given all of it, not tokens of its own."""
    records = [{"q": "what", "c": "hot summers", "label": {"start": 4, "text": "summer"}, "g": n} for n in range(40)]
    changes = dict(text="q", second="c", target="span", group="g", tokenizer="bpe", vocab_size=300)
    prepared = prepare_labelled(config_of(tmp_path, records, **changes), tmp_path / "data", quiet)
    form = dataclasses.replace(FORM, pairs=True, target="span")
    found = prepared.rows("train", form)[0]
    first, last = found["span"]
    assert prepared.tokenizer.decode(found["tokens"][first : last + 1]) == " summers" and first == last


def test_a_word_has_its_tag_at_its_first_token(tmp_path):
    records = [{"text": ["Ada", "ran"], "label": ["name", "verb"], "group": n} for n in range(20)]
    config = config_of(tmp_path, records, target="tags", group="group")
    prepared = prepare_labelled(config, tmp_path / "data", quiet)
    found = prepared.rows("train", dataclasses.replace(FORM, target="tags"))[0]
    assert prepared.about.classes == ("name", "verb")
    assert found["tokens"].tolist() == row(CLS, "Ada ran", SEP, width=16)
    assert found["tags"].tolist() == [-1, 0, -1, -1, 1] + [-1] * 11
    cut = prepared.rows("train", dataclasses.replace(FORM, target="tags", width=5))[0]
    assert cut["tags"].tolist() == [-1, 0, -1, -1, -1]


def test_a_target_that_is_a_text_ends(tmp_path):
    records = [{"text": f"say {n}", "label": "abcdefg"[: 3 + n % 5], "group": n} for n in range(20)]
    config = config_of(tmp_path, records, target="text", group="group")
    form = dataclasses.replace(FORM, begin=(), end=("eos",), target="text", target_width=6)
    rows = prepare_labelled(config, tmp_path / "data", quiet).rows("train", form)
    numbers = [n for n in range(20) if fraction(str(n)) >= 0.3]
    for number, found in zip(numbers, (rows[index] for index in range(len(rows))), strict=True):
        text = "abcdefg"[: 3 + number % 5][:5]
        assert found["target"].tolist() == row(text, EOS, width=6)
        assert (found["length"], found["target_length"]) == (len(f"say {number}") + 1, len(text) + 1)


def test_few_labels_are_of_each_class_and_nested(tmp_path):
    config = config_of(tmp_path, [review(number) for number in range(120)])
    directory = tmp_path / "data"
    whole = prepare_labelled(config, directory, quiet)

    def chosen(labels, seed=0):
        prepared = prepare_labelled(dataclasses.replace(config, labels=labels, labels_seed=seed), directory, quiet)
        rows = prepared.rows("train", FORM)
        assert np.bincount(rows.labels_of(len(rows)), minlength=2).tolist() == [labels, labels]
        assert len(prepared.rows("held_out", FORM)) == len(whole.rows("held_out", FORM))
        return {tuple(tokens) for tokens in rows.rows(range(len(rows)))["tokens"].tolist()}, prepared

    few, first = chosen(3)
    more, second = chosen(7)
    other, third = chosen(3, seed=1)
    assert few < more and few != other
    prints = [each.fingerprint(0, 4, FORM) for each in (whole, first, second, third)]
    assert len({json.dumps(each) for each in prints}) == 4
    with pytest.raises(DataError, match="fewer examples than one batch"):
        first.training_rows(FORM, 7, 0)


def test_training_rows_are_a_function_of_seed_and_step(made):
    rows, again = made.training_rows(FORM, 8, 3), made.training_rows(FORM, 8, 3)
    seen = np.concatenate([rows.numbers(step) for step in range(5)])
    assert len(np.unique(seen[: len(rows.source)])) == len(rows.source) <= 40
    for name, values in rows.batch(4).items():
        assert np.array_equal(values, again.batch(4)[name])
    assert not np.array_equal(rows.numbers(0), made.training_rows(FORM, 8, 4).numbers(0))


def test_held_out_batches_hold_each_example_once(made):
    held_out = made.held_out("", FORM)
    batches = list(held_out.batches(7))
    valid = np.concatenate([batch["valid"] for batch in batches])
    labels = np.concatenate([batch["label"] for batch in batches])
    assert valid.sum() == held_out.count and (labels[valid] == held_out.labels).all() and (labels[~valid] == -1).all()
    assert sum(batch["valid"].sum() for batch in made.held_out("", FORM, limit=3).batches(7)) == 3


def test_tables_and_numbers(tmp_path):
    with (tmp_path / "all.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["text", "label"])
        writer.writerows([f"a, text\nof {n} lines", n / 2] for n in range(30))
    config = LabelledConfig("csv", (str(tmp_path / "all.csv"),), tokenizer="bytes", specials=MARKS, target="number")
    prepared = prepare_labelled(config, tmp_path / "data", quiet)
    rows = prepared.rows("train", dataclasses.replace(FORM, target="number"))
    labels = rows.labels_of(len(rows))
    assert prepared.about.mean == pytest.approx(labels.mean()) and prepared.about.std == pytest.approx(labels.std())
    assert rows[0]["label"].dtype == np.float32 and set(labels * 2) <= set(range(30))


BAD = [
    ("not json", {}, "all.jsonl:3", "not JSON"),
    ("[1]", {}, "all.jsonl:3", "holds a list"),
    ('{"text": "a"}', {}, "all.jsonl:3", "no 'label'"),
    ('{"text": "", "label": "good"}', {}, "all.jsonl:3", "is empty"),
    ('{"text": 3, "label": "good"}', {}, "all.jsonl:3", "is a int"),
    ('{"text": "a", "label": 0.5}', {}, "all.jsonl:3", "neither a name nor a whole number"),
    ('{"text": "a", "label": null}', {}, "all.jsonl:3", "neither a name nor a whole number"),
    ('{"text": "\\ud800", "label": "good"}', {}, "all.jsonl:3", "not valid Unicode"),
    ('{"text": "a", "label": "high"}', {"target": "number"}, "all.jsonl", "no finite number"),
]


@pytest.mark.parametrize("line, changes, where, why", BAD)
def test_a_bad_line_is_named(tmp_path, line, changes, where, why):
    config = config_of(tmp_path, [review(0), review(1)], **changes)
    with open(config.paths[0], "a") as stream:
        stream.write(line + "\n")
    if changes:
        (tmp_path / "all.jsonl").write_text(line + "\n")
    with pytest.raises(DataError) as caught:
        prepare_labelled(config, tmp_path / "data", quiet)
    assert where in caught.value.where and why in caught.value.why and not (tmp_path / "data").exists()


def test_an_answer_that_stands_elsewhere_is_refused(tmp_path):
    records = [{"text": "q", "c": "the hen", "label": {"start": 3, "text": "hen"}}]
    with pytest.raises(DataError, match="cannot be used") as caught:
        prepare_labelled(config_of(tmp_path, records, second="c", target="span"), tmp_path / "data", quiet)
    assert "' he' does" in caught.value.why


def test_words_and_tags_are_as_many(tmp_path):
    records = [{"text": ["a", "b"], "label": ["x"]}]
    with pytest.raises(DataError) as caught:
        prepare_labelled(config_of(tmp_path, records, target="tags"), tmp_path / "data", quiet)
    assert "2 words in 'text', but 1 tags" in caught.value.why


def test_a_class_that_training_lacks_is_refused(tmp_path):
    test = write(tmp_path / "test.jsonl", [{"text": "new", "label": "odd"}])
    config = config_of(tmp_path, [review(number) for number in range(30)], test_paths=(test,))
    with pytest.raises(DataError, match="no training example is of the class 'odd'") as caught:
        prepare_labelled(config, tmp_path / "data", quiet)
    assert caught.value.where == f"{test}:1"


def test_what_cannot_be_meant_is_refused(tmp_path, made):
    with pytest.raises(ConfigError, match="need files"):
        prepare_labelled(LabelledConfig(), tmp_path / "none", quiet)
    with pytest.raises(ConfigError, match="a table has no spans"):
        tabled = config_of(tmp_path, [review(0)], source="csv", second="text", target="span")
        prepare_labelled(tabled, tmp_path / "none", quiet)
    with pytest.raises(ConfigError, match="part of a second text"):
        LabelledConfig(target="span")
    with pytest.raises(ConfigError, match="words of one text"):
        LabelledConfig(target="tags", second="other")
    with pytest.raises(ConfigError, match="reads other examples"):
        made.rows("train", dataclasses.replace(FORM, pairs=True))
    with pytest.raises(ConfigError, match="no room for text"):
        made.rows("train", dataclasses.replace(FORM, width=2))
    with pytest.raises(ConfigError, match="unknown split 'test'"):
        made.columns("test")
    with pytest.raises(DataError, match="has no example"):
        prepare_labelled(config_of(tmp_path, [review(0)], held_out=0.0), tmp_path / "none", quiet)


def test_a_directory_is_reused_verified_and_found_damaged(tmp_path, made):
    directory = made.directory
    assert held_kind(directory) == "labelled" and open_labelled(directory).meta == made.meta
    lines = verify(directory)
    assert [line.split(":")[0] for line in lines] == ["train", "held_out"] and "of each of 2 classes" in lines[0]
    another = config_of(tmp_path, [review(number) for number in range(60)], group="film", held_out=0.5)
    with pytest.raises(DataError, match="another configuration") as caught:
        prepare_labelled(another, directory, quiet)
    assert "config.data.held_out" in caught.value.where
    path = directory / "train.label.bin"
    path.write_bytes(path.read_bytes()[:-1] + b"\x07")
    with pytest.raises(DataError, match="damaged"):
        open_labelled(directory)


def test_the_tokenizer_is_trained_on_training_texts_alone(tmp_path):
    records = [review(number) for number in range(60)]
    config = config_of(tmp_path, records, group="film", tokenizer="bpe", vocab_size=300)
    tokenizer, size, tokens = train_tokenizer(config)
    prepared = prepare_labelled(config, tmp_path / "data", quiet)
    assert prepared.tokenizer.digest == tokenizer.digest
    columns = prepared.columns("held_out")
    assert tokens == len(columns.text.tokens)
    assert size == sum(len(prepared.tokenizer.decode(each)) for each in columns.text)
