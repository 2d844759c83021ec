"""Tokenizers of other makers: one without padding, one that was trained without some bytes."""

import json

import pytest

from pretrainx.core.errors import DataError
from pretrainx.data.pieces import byte_characters
from pretrainx.data.tokenizer import Tokenizer


def load(path, bytes_of=range(256)):
    """A byte-level BPE of these bytes and an end of text."""
    tokens = [byte_characters()[byte] for byte in bytes_of]
    inner = json.loads(Tokenizer.of_bytes()._inner.to_str())
    inner["model"]["vocab"] = {token: index for index, token in enumerate(tokens)} | {"<|endoftext|>": len(tokens)}
    end = {**inner["added_tokens"][0], "id": len(tokens), "content": "<|endoftext|>"}
    path.write_text(json.dumps({**inner, "added_tokens": [end]}))
    return Tokenizer.load(path)


def test_padding_that_a_tokenizer_lacks_is_an_id_of_its_own(tmp_path):
    """Not the end of text, which is a target; and nothing of it is in the file that is saved."""
    tokenizer = load(tmp_path / "one.json")
    vocabulary = tokenizer.vocabulary
    assert vocabulary.specials == (("pad", 257), ("eos", 256))
    assert (vocabulary.size, vocabulary.added, vocabulary.predicted) == (258, 1, 257)
    assert tokenizer.decode([257, 97]) == "a" and tokenizer.bytes_per_token[257] == 0
    tokenizer.save(tmp_path / "two.json")
    again = Tokenizer.load(tmp_path / "two.json")
    assert again.vocabulary == vocabulary and again.digest == tokenizer.digest
    assert "pad" not in (tmp_path / "two.json").read_text().replace('"padding"', "")
    own = Tokenizer.of_bytes().vocabulary
    assert own.added == 0 and own.predicted == own.size


def test_bytes_that_a_tokenizer_lacks_are_refused_in_texts(tmp_path):
    tokenizer = load(tmp_path / "one.json", [byte for byte in range(256) if byte not in (4, 0xF1)])
    assert tokenizer.decode(tokenizer.encode_batch(["caf\u00e9\n"])[0]) == "caf\u00e9\n"
    with pytest.raises(DataError, match="no token for a byte") as caught:
        tokenizer.encode_batch(["good", "bad \x04"])
    assert "[4]" in caught.value.why and "'bad " in caught.value.where
    with pytest.raises(DataError, match="not byte-level"):
        load(tmp_path / "two.json", [byte for byte in range(256) if byte != ord("e")])
