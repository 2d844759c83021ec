"""The tokenizers made here lose nothing, train the same twice, and never make a special token out of text."""

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrainx.core.errors import ConfigError, DataError
from pretrainx.data.pieces import byte_characters
from pretrainx.data.tokenizer import SMALLEST, Tokenizer

CODE = "def f(x):\n    return x + 1\n"
TEXTS = ["the cat sat on the mat, the cat\n", CODE, "na\u00efve caf\u00e9 \u6f22\u5b57 \U0001f642"] * 3
BPE = Tokenizer.train(TEXTS, 300)
BYTES = Tokenizer.of_bytes()
BOTH = pytest.mark.parametrize("tokenizer", [BPE, BYTES], ids=["bpe", "bytes"])


@BOTH
@settings(max_examples=150, deadline=None, database=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_every_text_comes_back(tokenizer, text):
    ids = tokenizer.encode_batch([text])[0]
    assert ids.dtype == np.int32
    assert tokenizer.decode(ids) == text
    assert tokenizer.bytes_per_token[ids].sum() == len(text.encode())
    assert not set(ids.tolist()) & {0, 1}


@BOTH
def test_specials_come_from_nobody_s_text(tokenizer):
    assert tokenizer.vocabulary.specials == (("pad", 0), ("eos", 1)) and tokenizer.end == 1
    text = "a<|eos|>b<|pad|>"
    ids = tokenizer.encode_batch([text])[0]
    assert ids.min() > 1 and tokenizer.decode(ids) == text
    assert tokenizer.bytes_per_token[:2].tolist() == [0, 0] and tokenizer.bytes_per_token[2:].min() >= 1
    assert tokenizer.decode([0, *ids, 1, 0]) == text
    assert sorted(tokenizer.bytes_per_token.tolist()).count(1) == 256


def test_bytes_are_shifted_by_the_specials():
    text = "".join(map(chr, range(0x180)))
    assert BYTES.vocabulary.size == SMALLEST == 258
    assert BYTES.encode_batch([text])[0].tolist() == [byte + 2 for byte in text.encode()]


def test_alphabet_is_that_of_the_library():
    from tokenizers import pre_tokenizers

    assert sorted(byte_characters()) == sorted(pre_tokenizers.ByteLevel.alphabet())
    assert len(set(byte_characters())) == 256


def test_training_twice_gives_the_same_tokenizer_also_in_another_process():
    assert BPE.vocabulary.size == 300
    assert Tokenizer.train(iter(TEXTS), 300).digest == BPE.digest != Tokenizer.train(TEXTS, 299).digest
    program = f"from pretrainx.data.tokenizer import Tokenizer; print(Tokenizer.train({TEXTS!r}, 300).digest)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == BPE.digest


@BOTH
def test_saved_and_loaded_is_the_same(tokenizer, tmp_path):
    path = tmp_path / "tokenizer.json"
    tokenizer.save(path)
    loaded = Tokenizer.load(path)
    assert loaded.digest == tokenizer.digest and loaded.vocabulary == tokenizer.vocabulary
    text = TEXTS[2] + "<|eos|>"
    assert loaded.encode_batch([text])[0].tolist() == tokenizer.encode_batch([text])[0].tolist()


def test_half_a_character_is_shown_not_raised():
    ids = BYTES.encode_batch(["\u00e9"])[0]
    assert BYTES.decode(ids[:1]) == "\ufffd"
    with pytest.raises(DataError, match="258"):
        BYTES.decode([258])
    with pytest.raises(DataError, match="Unicode"):
        BYTES.encode_batch(["\ud800"])


def test_too_small_a_vocabulary_is_refused():
    assert Tokenizer.train(TEXTS, 258).vocabulary.size == 258
    with pytest.raises(ConfigError, match="config.data.vocab_size"):
        Tokenizer.train(TEXTS, 257)


def test_files_that_are_no_tokenizer_or_lose_bytes_are_refused_by_name(tmp_path):
    path = tmp_path / "tokenizer.json"
    with pytest.raises(DataError, match="tokenizer.json"):
        Tokenizer.load(path)
    path.write_text("{}")
    with pytest.raises(DataError, match="no tokenizer"):
        Tokenizer.load(path)
    BPE.save(path)
    good = json.loads(path.read_text())

    def refuse(says, **changes):
        path.write_text(json.dumps({**good, **changes}))
        with pytest.raises(DataError, match=says) as caught:
            Tokenizer.load(path)
        assert str(path) in str(caught.value) and caught.value.do

    refuse("changes the text", normalizer={"type": "NFKC"})
    refuse("changes the text", pre_tokenizer={**good["pre_tokenizer"], "add_prefix_space": True})
    refuse("no 'eos'", added_tokens=good["added_tokens"][:1])
    vocab = dict(good["model"]["vocab"])
    swapped = {("not bytes" if name == "!" else name): index for name, index in vocab.items()}
    refuse("not byte-level", model={**good["model"], "vocab": swapped})
