"""Fields beside the tokens: words, sentences, documents, lengths, other rows; and rows of one document each."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrainx.core.errors import DataError
from pretrainx.core.records import TextRows
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.data.fields import Marks
from pretrainx.data.held_out import HeldOutText
from pretrainx.data.rows import MixedRows, TrainingRows, own_seed
from pretrainx.data.stream import DocumentRows, PackedRows, TokenRows
from pretrainx.data.text import TextConfig, prepare
from pretrainx.data.tokenizer import Tokenizer
from pretrainx.data.verify import verify

PROSE = 'It was dusk. "Who is there?" she asked... Nobody answered!\n\nThe door, they say, was open.'
CODE = "def area(side):\n    # A square.\n\n    return side * side\n"
TOKENIZER = Tokenizer.train([PROSE * 3, CODE * 3], 320)
MARKS = Marks(0, 1, TOKENIZER.word_starts, TOKENIZER.sentence_ends)
VOCABULARY = TOKENIZER.vocabulary
ALL = ("segments", "words", "sentences", "length")


def quiet(_):
    """A log that nobody reads."""


def stream(*texts):
    """Tokens of documents end to end, and where each begins."""
    documents = [np.append(ids, 1) for ids in TOKENIZER.encode_batch(list(texts))]
    return np.concatenate(documents).astype(np.uint16), np.cumsum([0, *map(len, documents)])


def texts_between(ids, marks, first):
    """Decoded runs of ids that begin (`first`) or end at marks."""
    places = np.flatnonzero(marks) + (0 if first else 1)
    return [TOKENIZER.decode(run) for run in np.split(ids, places) if len(run)]


@pytest.mark.parametrize("text", [PROSE, CODE])
def test_words_begin_at_blanks_and_with_documents(text):
    tokens, _ = stream(text, text)
    width = len(tokens)
    row = TokenRows(tokens, TextRows(width, 0, ALL), MARKS)[0]
    half = width // 2
    words = [word for word in texts_between(row["tokens"][:half], row["words"][:half], first=True) if word]
    assert "".join(words) == text and not words[0][0].isspace()
    # No word holds a blank elsewhere than in front, none is cut; runs of blanks are pieces of their own.
    assert all(not any(letter.isspace() for letter in word.lstrip()) for word in words)
    assert [word.strip() for word in words if word.strip()] == text.split()
    # The second document begins a word without a blank; the ends of documents are none.
    assert row["words"][half] and row["words"][half:].tolist() == row["words"][:half].tolist()
    assert not row["words"][row["tokens"] == 1].any()


def test_sentences_end_at_stops_blank_lines_and_with_documents():
    tokens, _ = stream(PROSE, CODE)
    row = TokenRows(tokens, TextRows(len(tokens), 0, ALL), MARKS)[0]
    sentences = texts_between(row["tokens"], row["sentences"], first=False)
    assert "".join(sentences) == PROSE + CODE
    assert [s.strip() for s in sentences[:3]] == ["It was dusk.", '"Who is there?"', "she asked..."]
    assert sentences[3].strip() == "Nobody answered!" and sentences[4].endswith("was open.")
    # The stop in front of the end of the document is not its last token: that is the end itself.
    assert (
        row["sentences"][row["tokens"] == 1].all() and not row["sentences"][np.flatnonzero(row["tokens"] == 1)[0] - 1]
    )
    ends, before = TOKENIZER.sentence_ends, np.append(1, tokens[:-1])
    inner = (tokens != 1) & (np.append(tokens[1:], 1) != 1)
    assert (row["sentences"] == ends[tokens] & ~ends[before])[inner].all()


def test_pieces_that_end_sentences():
    ends = lambda text: Tokenizer.train([f"x{text}" * 9], 300).sentence_ends
    for text, expected in ((".", True), ('."', True), ("?)", True), ("...", True), ("!=", False), (",", False)):
        tokenizer = Tokenizer.train([text * 9, f"{text} x" * 9], 270)
        ids = tokenizer.encode_batch([text])[0]
        assert (len(ids), tokenizer.sentence_ends[ids[-1]]) == (1, expected), text
    assert ends("").dtype == bool and not ends("")[:2].any()


@pytest.mark.parametrize("overlap", [0, 1])
def test_rows_of_a_stream_know_their_neighbours_and_their_documents(overlap):
    """A row says of a token what the whole stream says of it: nothing changes where rows are cut."""
    tokens, borders = stream(PROSE, CODE, PROSE[:30], "x")
    whole = TokenRows(tokens, TextRows(len(tokens), 0, ALL), MARKS)[0]
    assert whole["segments"].tolist() == np.repeat([1, 2, 3, 4], np.diff(borders)).tolist()
    assert whole["length"] == len(tokens)
    rows = TokenRows(tokens, TextRows(7 + overlap, overlap, ALL), MARKS, rest=True)
    for number in range(len(rows)):
        row, here = rows[number], slice(number * 7, number * 7 + 7 + overlap)
        count = len(tokens[here])
        assert row["length"] == count and row["tokens"][:count].tolist() == tokens[here].tolist()
        assert not row["tokens"][count:].any() and not row["segments"][count:].any() and not row["words"][count:].any()
        for name in ("words", "sentences"):
            assert row[name][:count].tolist() == whole[name][here].tolist()
        assert row["segments"][:count].tolist() == (whole["segments"][here] - whole["segments"][here][0] + 1).tolist()


def test_packed_rows_know_where_words_begin():
    tokens, borders = stream("one two", "three")
    pieces = np.array([[borders[1], borders[2] - borders[1]], [0, borders[1]]])
    rows = PackedRows(tokens, np.array([0, 2]), pieces, TextRows(len(tokens) + 2, 0, ("segments", "words")), MARKS)
    row = rows[0]
    words = [TOKENIZER.decode(run) for run in np.split(row["tokens"], np.flatnonzero(row["words"]))]
    assert [word for word in words if word] == ["three", "one", " two"]


DOCUMENTS = st.lists(st.integers(1, 40), min_size=1, max_size=40)


@settings(max_examples=100, deadline=None, database=None)
@given(lengths=DOCUMENTS, width=st.integers(2, 17), overlap=st.integers(0, 1))
def test_one_document_a_row_every_target_once(lengths, width, overlap):
    tokens = np.arange(2, 2 + sum(lengths), dtype=np.uint32)
    borders = np.cumsum([0, *lengths])
    rows = DocumentRows(tokens, borders, TextRows(width, overlap, ("length", "segments")), MARKS)
    if not len(rows):
        assert overlap and max(lengths) == 1
        return
    batch = rows.rows(range(len(rows)))
    real = np.arange(width) < batch["length"][:, None]
    assert (batch["tokens"][~real] == 0).all() and (batch["segments"] == real).all()
    targets = [row[overlap:count].tolist() for row, count in zip(batch["tokens"], batch["length"], strict=True)]
    assert sum(targets, []) == [
        token for a, b in zip(borders, borders[1:], strict=False) for token in tokens[a + overlap : b]
    ]
    assert all(len(found) > 0 for found in targets)
    document = np.repeat(np.arange(len(lengths)), lengths)
    assert all(len(set(document[row[:n] - 2])) == 1 for row, n in zip(batch["tokens"], batch["length"], strict=True))
    # A limit is that many targets, and no row more than they need.
    limit = sum(map(len, targets)) // 2 + 1
    count = rows.until(limit)
    assert sum(map(len, targets[:count])) >= limit > sum(map(len, targets[: count - 1]))


@pytest.fixture
def corpus(tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    for index in range(40):
        (folder / f"{index:02}.txt").write_text(f"{index} says " * (index % 13 + 1) + "so.")
    return TextConfig(source="text", paths=(str(folder),), tokenizer="bytes", held_out=0.2, length=32, packing="single")


def test_prepared_single_documents_serve_any_width(corpus, tmp_path):
    text = prepare(corpus, tmp_path / "data", quiet)
    assert prepare(dataclasses.replace(corpus, length=20), tmp_path / "data", quiet) == text and verify(
        tmp_path / "data"
    )
    for reads in (TextRows(40, 0, ALL), TextRows(21, 1)):
        training = text.training_rows(reads, 4, 0)
        spec, batch = reads.spec(4), training.batch(2)
        assert {name: (leaf.shape, leaf.dtype) for name, leaf in spec.items()} == {
            name: (values.shape, values.dtype) for name, values in batch.items()
        }
        facts = text.split("train", "")
        rows = text.rows("train", "", reads)
        assert sum(len(found) for found in rows.sequences(len(rows))) == facts["tokens"] + reads.overlap * (
            len(rows) - facts["documents"]
        )
        assert text.fingerprint(0, 4, reads)["sources"][0]["rows"] == len(rows)
    held_out = text.held_out("", TextRows(40, 0, ALL))
    batches = list(held_out.batches(3))
    assert sum(batch["length"].sum() for batch in batches) == text.split("held_out", "")["tokens"]
    assert sum(map(len, held_out.targets())) == text.split("held_out", "")["tokens"]
    assert not any(batch["length"][~batch["valid"]].any() for batch in batches)
    path = tmp_path / "data" / "train.documents.bin"
    path.write_bytes(path.read_bytes()[8:])
    with pytest.raises(DataError, match="train.documents.bin"):
        prepare(corpus, tmp_path / "data", quiet)


def test_an_other_row_is_never_the_row_itself():
    tokens = (np.arange(90) + 2).astype(np.uint16)
    rows = TokenRows(tokens, TextRows(9, 0, ("other",)), MARKS)
    vocabulary = Vocabulary(100, (("pad", 0), ("eos", 1)))
    numbers = np.arange(10)
    for seed in range(50):
        others = rows.others(numbers, seed)
        assert (others != numbers).all() and others.min() >= 0 and others.max() < 10
    drawn = np.array([rows.others([3], seed)[0] for seed in range(900)])
    assert np.abs(np.bincount(drawn, minlength=10) - np.where(numbers == 3, 0, 100)).max() < 45
    training = TrainingRows(rows, 4, 7, vocabulary)
    batch = training.batch(3)
    assert (
        batch["other"] == rows.rows(rows.others(training.numbers(3), own_seed(7, "step/3")).tolist())["tokens"]
    ).all()
    assert (batch["other"] != batch["tokens"]).all()
    met = {row: set() for row in range(10)}
    for step in range(20):  # eight epochs
        for row, other in zip(training.numbers(step).tolist(), training.batch(step)["other"], strict=True):
            met[row].add(other[0])
    assert min(map(len, met.values())) > 2, "a row meets other ones in other epochs"
    assert (TrainingRows(rows, 4, 8, vocabulary).batch(3)["other"] != batch["other"]).any()
    # In a mixture, of the same part.
    mixed = MixedRows([("a", rows), ("b", TokenRows(tokens[:27], rows.reads, MARKS))], (1, 1))
    others = mixed.others(np.arange(13), 0)
    assert (mixed.part_of(others) == mixed.part_of(np.arange(13))).all() and (others != np.arange(13)).all()


@pytest.mark.parametrize("kind", ["stream", "documents"])
def test_an_other_row_is_of_another_document(kind):
    """Four documents of five rows each (one row in the stream has parts of two): no row meets its own document."""
    documents = [np.append(np.full(size, 10 + name), 1) for name, size in enumerate((44, 44, 47, 41))]
    tokens, reads = np.concatenate(documents).astype(np.uint16), TextRows(9, 0, ("other",))
    borders = np.cumsum([0, *map(len, documents)])
    rows = TokenRows(tokens, reads, MARKS) if kind == "stream" else DocumentRows(tokens, borders, reads, MARKS)
    text = [set(rows[row]["tokens"].tolist()) - {0, 1} for row in range(len(rows))]
    for seed in range(40):
        assert all(text[row].isdisjoint(text[other]) for row, other in enumerate(rows.others(range(len(rows)), seed)))
    alone = TokenRows(tokens[:44], reads, MARKS)
    assert (alone.others(range(4), 0) != np.arange(4)).all(), "where there is but one document, another row of it"


def test_other_rows_of_held_out_text(tmp_path):
    for index in range(12):
        (tmp_path / f"{index}.txt").write_text(chr(97 + index) * 30)
    config = TextConfig(source="text", paths=(f"{tmp_path}/*.txt",), tokenizer="bytes", held_out=0.25)
    text = prepare(config, tmp_path / "data", quiet)
    held_out = set(np.asarray(text.tokens("held_out")).tolist())
    for width, other_split in ((10, "held_out"), (len(text.tokens("held_out")), "train")):
        reads = TextRows(width, 0, ("other",))
        found = text.held_out("", reads)
        for batch in found.batches(2):
            assert batch["other"].shape == batch["tokens"].shape
            own = [set(row.tolist()) <= held_out | {0} for row in batch["other"][batch["valid"]]]
            assert all(own) if other_split == "held_out" else not any(own)
        assert isinstance(found, HeldOutText) and (found.others is None) == (other_split == "held_out")
    with pytest.raises(DataError, match="no other row"):
        text.training_rows(TextRows(len(text.tokens("train")), 0, ("other",)), 1, 0)
