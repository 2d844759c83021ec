"""Special tokens beside padding and end, and sentinels: made where they are asked for, found where a file has them."""

import dataclasses

import pytest

from pretrainx.core.errors import ConfigError, DataError
from pretrainx.data.prepared import open_prepared
from pretrainx.data.text import TextConfig, prepare, train_tokenizer
from pretrainx.data.tokenizer import Tokenizer

TEXTS = ["the cat sat on the mat, the cat\n", "def f(x):\n    return x + 1\n"] * 4
MADE = {
    "bpe": lambda *more: Tokenizer.train(TEXTS, 280, *more),
    "bytes": lambda *more: Tokenizer.of_bytes(*more),
}


def quiet(_):
    """A log that nobody reads."""


@pytest.mark.parametrize("kind", MADE)
def test_sentinels_are_the_last_ids_the_first_one_the_very_last(kind, tmp_path):
    tokenizer = MADE[kind](("mask", "cls", "mode_r"), 5)
    size = tokenizer.vocabulary.size
    assert size == (280 if kind == "bpe" else 258 + 8)
    assert tokenizer.vocabulary.sentinels == tuple(size - 1 - i for i in range(5))
    specials = dict(tokenizer.vocabulary.specials)
    assert specials == {"pad": 0, "eos": 1, "mask": size - 8, "cls": size - 7, "mode_r": size - 6}
    assert not tokenizer.word_starts[[0, 1, *range(size - 8, size)]].any()
    assert not tokenizer.bytes_per_token[size - 8 :].any()
    # Nobody's text makes one of them; and other ids are those of a tokenizer without.
    ids = tokenizer.encode_batch(["<|mask|> <|sentinel_0|>"])[0]
    assert ids.max() < size - 8 and tokenizer.decode([*ids, size - 1, size - 8]) == "<|mask|> <|sentinel_0|>"
    plain = Tokenizer.of_bytes() if kind == "bytes" else Tokenizer.train(TEXTS, 272)
    assert tokenizer.encode_batch(TEXTS)[0].tolist() == plain.encode_batch(TEXTS)[0].tolist()
    tokenizer.save(tmp_path / "tokenizer.json")
    again = Tokenizer.load(tmp_path / "tokenizer.json", ("mode_r",), 5)
    assert again.vocabulary == tokenizer.vocabulary and again.digest == tokenizer.digest
    # A name of its own is known to those who ask for it; the usual ones are known to all.
    assert dict(Tokenizer.load(tmp_path / "tokenizer.json").vocabulary.specials) == {
        name: index for name, index in specials.items() if name != "mode_r"
    }


def test_what_cannot_be_meant_is_refused(tmp_path):
    for specials in (("pad",), ("eos",), ("sentinel_3",), ("Mask",), ("a b",), ("mask", "mask"), ("",)):
        with pytest.raises(ConfigError, match="config.data.specials"):
            Tokenizer.of_bytes(specials)
    with pytest.raises(ConfigError, match="3 special tokens need 259"):
        Tokenizer.train(TEXTS, 258, ("mask",))
    assert Tokenizer.train(TEXTS, 259, ("mask",)).vocabulary.special("mask") == 258
    Tokenizer.of_bytes(("mask",), 3).save(tmp_path / "tokenizer.json")
    with pytest.raises(DataError, match="no 'cls' token") as caught:
        Tokenizer.load(tmp_path / "tokenizer.json", ("mask", "cls"))
    assert "tokenizer.json" in caught.value.where
    with pytest.raises(DataError, match="4 are asked for .*has 3"):
        Tokenizer.load(tmp_path / "tokenizer.json", (), 4)


@pytest.fixture
def config(tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    for index in range(20):
        (folder / f"{index:02}.txt").write_text(f"document {index} says hello\n" * 3)
    return TextConfig(source="text", paths=(str(folder),), tokenizer="bytes", held_out=0.2)


def test_prepared_text_keeps_what_was_asked_for(config, tmp_path):
    asked = dataclasses.replace(config, specials=("mask", "mode_r"), sentinels=7)
    text = prepare(asked, tmp_path / "data", quiet)
    vocabulary = text.vocabulary
    assert (vocabulary.size, vocabulary.special("mode_r"), vocabulary.sentinels[:2]) == (267, 259, (266, 265))
    assert (
        open_prepared(tmp_path / "data").vocabulary == prepare(asked, tmp_path / "data", quiet).vocabulary == vocabulary
    )
    assert train_tokenizer(asked)[0].digest == text.tokenizer.digest
    with pytest.raises(DataError, match="config.data.sentinels"):
        prepare(dataclasses.replace(asked, sentinels=6), tmp_path / "data", quiet)
    # Whoever asks for nothing has the data of before there was anything to ask for.
    assert not {"specials", "sentinels", "width"} & config.preparing().keys()
    with pytest.raises(DataError, match="config.data.specials"):
        prepare(config, tmp_path / "data", quiet)
    text.tokenizer.save(tmp_path / "mine.json")
    with pytest.raises(DataError, match="no 'cls' token"):
        foreign = dataclasses.replace(config, tokenizer=str(tmp_path / "mine.json"), specials=("cls",))
        prepare(foreign, tmp_path / "other", quiet)
