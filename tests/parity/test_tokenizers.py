"""Tokenizers that transformers writes: the same ids within the same special tokens, for text that needs normalising."""

import pytest

from pretrainx.data.pieces import byte_characters
from pretrainx.data.tokenizer import Tokenizer

pytestmark = [pytest.mark.usefixtures("reference"), pytest.mark.xdist_group("parity")]

TEXTS = ["The CATS sat.", "the  cat \u6f22 sat", "cats\u00e9\nthe", "", "."]
WORDPIECE = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "##s", "sat", "."]
UNIGRAM = ["<pad>", "</s>", "<unk>", "\u2581", "\u2581the", "\u2581cat", "s", "\u2581sat", "."]
BYTES = ["<s>", "<pad>", "</s>", "<unk>", *byte_characters(), "<mask>"]
NUMBERED = lambda names: {name: index for index, name in enumerate(names)}
MADE = {
    "BertTokenizerFast": (False, lambda kind: kind(vocab=NUMBERED(WORDPIECE))),
    "T5TokenizerFast": (False, lambda kind: kind(vocab=[(p, -float(i)) for i, p in enumerate(UNIGRAM)], extra_ids=5)),
    "RobertaTokenizerFast": (True, lambda kind: kind(vocab=NUMBERED(BYTES), merges=[])),
    "BartTokenizerFast": (True, lambda kind: kind(vocab=NUMBERED(BYTES), merges=[])),
}


@pytest.mark.parametrize("name", MADE)
def test_framed_ids_and_special_tokens(name, tmp_path):
    import transformers

    lossless, make = MADE[name]
    theirs = make(getattr(transformers, name))
    theirs.save_pretrained(tmp_path)
    ours = Tokenizer.load(tmp_path / "tokenizer.json")
    assert ours.lossless == lossless and ours.vocabulary.predicted == len(theirs)
    framed = [ids.tolist() for ids in ours.encode_batch(TEXTS, framed=True)]
    assert framed == [theirs(text)["input_ids"] for text in TEXTS]
    plain = [ids.tolist() for ids in ours.encode_batch(TEXTS)]
    assert plain == [theirs(text, add_special_tokens=False)["input_ids"] for text in TEXTS]
    found = dict(ours.vocabulary.specials)
    for special in ("pad", "mask", "cls", "sep", "bos", "eos"):
        expected = getattr(theirs, f"{special}_token_id")
        if expected is not None:
            assert found[special] == expected
    sentinels = [theirs.convert_tokens_to_ids(f"<extra_id_{i}>") for i in range(5)] if "T5" in name else []
    assert list(ours.vocabulary.sentinels) == sentinels
