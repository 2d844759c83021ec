"""Special tokens by the names that published tokenizers of image-text models give them."""

import json

import pytest

from pretrainx.data.tokenizer import Tokenizer


@pytest.mark.parametrize("names", [("<|startoftext|>", "<|endoftext|>"), ("<start_of_text>", "<end_of_text>")])
def test_the_ends_of_a_caption_are_known_by_their_published_names(tmp_path, names):
    inner = json.loads(Tokenizer.of_bytes(("bos",))._inner.to_str())
    added = {token["content"]: token for token in inner["added_tokens"]}
    spellings = dict(zip(("<|bos|>", "<|eos|>"), names, strict=True))
    for before, after in spellings.items():
        added[before]["content"] = after
        if before in inner["model"]["vocab"]:
            inner["model"]["vocab"][after] = inner["model"]["vocab"].pop(before)
    (tmp_path / "t.json").write_text(json.dumps(inner))
    vocabulary = Tokenizer.load(tmp_path / "t.json", ("bos",)).vocabulary
    assert (vocabulary.special("bos"), vocabulary.special("eos"), vocabulary.special("pad")) == (258, 1, 0)
