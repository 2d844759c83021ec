"""Tokenizers of models from elsewhere that change text: WordPiece, Unigram, SentencePiece's BPE."""

import json

import numpy as np
import pytest
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Inner

from pretrainx.core.errors import DataError
from pretrainx.data.text import TextConfig, prepare
from pretrainx.data.tokenizer import Tokenizer
from pretrainx.data.verify import verify


def quiet(_):
    """A log that nobody reads."""


def special(*names):
    return [AddedToken(name, special=True, normalized=False) for name in names]


def wordpiece():
    """In the form of BERT's: lower case, [CLS] text [SEP], truncated at 6 tokens and padded."""
    pieces = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "the",
        "un",
        "##aff",
        "##able",
        "cat",
        "##s",
        "sat",
        ".",
        "!",
        ",",
    ]
    inner = Inner(models.WordPiece({piece: index for index, piece in enumerate(pieces)}, unk_token="[UNK]"))
    inner.normalizer = normalizers.BertNormalizer(lowercase=True)
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece()
    inner.add_special_tokens(special("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"))
    inner.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    inner.enable_truncation(6)
    inner.enable_padding(length=6)
    return inner


def unigram():
    """In the form of T5's: blanks marked, sentinels that descend from the last id, text </s>."""
    words = ["\u2581", "\u2581the", "\u2581cat", "s", "\u2581sat", ".", "a", "t", "c", "e", "h", "\u2581un"]
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((word, -2.0 - i / 9) for i, word in enumerate(words))]
    inner = Inner(models.Unigram(vocab, unk_id=2))
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.decoder = decoders.Metaspace()
    inner.add_special_tokens(special("<pad>", "</s>", "<unk>", "<extra_id_2>", "<extra_id_1>", "<extra_id_0>"))
    inner.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
    return inner


def of(inner, path, *asked):
    inner.save(str(path))
    return Tokenizer.load(path, *asked)


def test_wordpiece(tmp_path):
    tokenizer = of(wordpiece(), tmp_path / "tokenizer.json", ("mask", "cls", "sep"))
    assert not tokenizer.lossless and tokenizer.vocabulary.size == 15
    assert dict(tokenizer.vocabulary.specials) == {"pad": 0, "eos": 3, "mask": 4, "cls": 2, "sep": 3}
    ids = tokenizer.encode_batch(["The  UNAFFABLE cats sat.", "[MASK] dog"])
    # Nothing is cut at 6 tokens or padded to them; unknown words are one token; specials are nobody's text.
    assert ids[0].tolist() == [5, 6, 7, 8, 9, 10, 11, 12] and set(ids[1].tolist()) == {1}
    assert tokenizer.decode(ids[0]) == "the unaffable cats sat."
    assert tokenizer.decode([2, *ids[0], 3, 0]) == "the unaffable cats sat."
    assert tokenizer.word_starts[ids[0]].tolist() == [True, True, False, False, True, False, True, True]
    assert not tokenizer.word_starts[:5].any()
    assert np.flatnonzero(tokenizer.sentence_ends).tolist() == [12, 13]
    # The pieces without their marks: of the normalised text all but its blanks.
    assert (
        tokenizer.bytes_per_token[ids[0]].sum() == len("theunaffablecatssat.")
        and not tokenizer.bytes_per_token[:5].any()
    )
    framed = tokenizer.encode_batch(["The  UNAFFABLE cats sat.", ""], framed=True)
    assert [found.tolist() for found in framed] == [[2, *ids[0].tolist(), 3], [2, 3]]
    assert framed[0].dtype == np.int32 and tokenizer.frame(ids[0]).tolist() == framed[0].tolist()


def test_unigram(tmp_path):
    tokenizer = of(unigram(), tmp_path / "tokenizer.json", (), 3)
    assert not tokenizer.lossless
    vocabulary = tokenizer.vocabulary
    assert dict(vocabulary.specials) == {"pad": 0, "eos": 1, "sep": 1} and vocabulary.sentinels == (17, 16, 15)
    ids = tokenizer.encode_batch(["the cats sat.", "the \u6f22 cat"])
    assert ids[0].tolist() == [4, 5, 6, 7, 8] and 2 in ids[1]
    assert tokenizer.decode([*ids[0], 17]) == "the cats sat."
    assert tokenizer.word_starts[ids[0]].tolist() == [True, True, False, True, False]
    assert tokenizer.sentence_ends[ids[0]].tolist() == [False] * 4 + [True]
    assert tokenizer.bytes_per_token[ids[0]].tolist() == [4, 4, 1, 4, 1] and tokenizer.bytes_per_token[2] == 0
    assert tokenizer.frame(ids[0]).tolist() == [*ids[0].tolist(), 1]
    with pytest.raises(DataError, match="4 are asked for"):
        Tokenizer.load(tmp_path / "tokenizer.json", (), 4)
    with pytest.raises(DataError, match="no 'mask' token"):
        Tokenizer.load(tmp_path / "tokenizer.json", ("mask",))
    with pytest.raises(DataError, match="outside the vocabulary"):
        tokenizer.decode([18])


def test_bytes_that_no_piece_holds_are_one_byte_each(tmp_path):
    """SentencePiece's BPE with a fall-back to bytes; no padding, which gets an id of its own."""
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2, "<0xC3>": 3, "<0xA9>": 4, "\u2581": 5, "a": 6, "\u2581a": 7}
    inner = Inner(models.BPE(vocab, [("\u2581", "a")], unk_token="<unk>", byte_fallback=True))
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    inner.decoder = decoders.Sequence(steps)
    inner.add_special_tokens(special("<unk>", "<s>", "</s>"))
    tokenizer = of(inner, tmp_path / "tokenizer.json")
    ids = tokenizer.encode_batch(["a \u00e9"])[0]
    assert ids.tolist() == [7, 5, 3, 4] and tokenizer.decode([*ids, 8]) == "a \u00e9"
    assert tokenizer.bytes_per_token.tolist() == [0, 0, 0, 1, 1, 1, 1, 2, 0]
    assert tokenizer.word_starts[ids].tolist() == [True, True, False, False]
    assert tokenizer.vocabulary.special("pad") == 8 and tokenizer.vocabulary.special("bos") == 1


def test_text_of_a_lossy_tokenizer_is_prepared(tmp_path):
    """A document without a token is none; what is saved is the file as it was."""
    (tmp_path / "corpus").mkdir()
    for index in range(12):
        (tmp_path / "corpus" / f"{index}.txt").write_text("The cats sat!" * (index % 3 + 1) if index % 4 else " \n")
    path = tmp_path / "tokenizer.json"
    of(wordpiece(), path)
    config = TextConfig(
        source="text", paths=(str(tmp_path / "corpus"),), tokenizer=str(path), held_out=0.4, length=4, packing="single"
    )
    text = prepare(config, tmp_path / "data", quiet)
    assert verify(tmp_path / "data") and prepare(config, tmp_path / "data", quiet) == text
    facts = text.meta["splits"]
    assert sum(split["documents"] for split in facts.values()) == 9
    assert sum(split["bytes"] for split in facts.values()) == sum(
        p.stat().st_size for p in (tmp_path / "corpus").iterdir()
    )
    kept = json.loads((tmp_path / "data" / "tokenizer.json").read_text())
    assert kept == json.loads(path.read_text()) and kept["truncation"]["max_length"] == 6


def test_a_byte_level_tokenizer_is_not_cut_short_by_its_file(tmp_path):
    inner = Tokenizer.of_bytes()._inner
    inner.enable_truncation(4)
    inner.enable_padding(pad_id=0, pad_token="<|pad|>", length=4)
    tokenizer = of(inner, tmp_path / "tokenizer.json")
    assert (
        tokenizer.lossless
        and tokenizer.decode(tokenizer.encode_batch(["far more than four"])[0]) == "far more than four"
    )
    assert len(tokenizer.encode_batch(["a"])[0]) == 1 and tokenizer.frame(np.array([5])).tolist() == [5]
    tokenizer.save(tmp_path / "again.json")
    assert Tokenizer.load(tmp_path / "again.json").digest == tokenizer.digest


def clip():
    """In the form of CLIP's: lower case, BPE over bytes with a mark where a word ends, <|startoftext|> and <|endoftext|>."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789'!?"
    names = [*letters, *(f"{letter}</w>" for letter in letters), "r e", "re d</w>", "d o", "do g</w>"]
    names = [name.replace(" ", "") for name in names]
    merges = [("r", "e"), ("re", "d</w>"), ("d", "o"), ("do", "g</w>")]
    vocab = {name: index for index, name in enumerate(names)}
    inner = Inner(models.BPE(vocab, merges, end_of_word_suffix="</w>", continuing_subword_prefix=""))
    inner.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    split = pre_tokenizers.Split(Regex(r"'s|[a-z]+|[0-9]|[^\sa-z0-9]+"), "removed", invert=True)
    inner.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(special("<|startoftext|>", "<|endoftext|>"))
    return inner


def test_clip_forgets_blanks_and_case():
    tokenizer = Tokenizer(clip())
    assert not tokenizer.lossless
    (ids,) = tokenizer.encode_batch(["A  RED dog's 12!"])
    assert tokenizer.decode(ids) == "a red dog 's 1 2 !"
    known = dict(tokenizer.vocabulary.specials)
    assert known["bos"] == len(clip().get_vocab()) - 2 and known["eos"] == known["bos"] + 1
    assert int(tokenizer.bytes_per_token[ids].sum()) == len("a red dog 's 1 2 ! ")


def test_captions_are_stored_as_they_were_where_the_tokenizer_forgets(tmp_path):
    """What is shown and compared is the caption itself, not what CLIP's tokens make of it."""
    from PIL import Image

    from pretrainx.data.pairs import PairConfig, prepare_pairs

    clip().save(str(tmp_path / "tokenizer.json"))
    for number in range(40):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / f"{number}.png")
    lines = (json.dumps({"image": f"{number}.png", "caption": f"A RED dog  {number}"}) for number in range(40))
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
    config = PairConfig(
        "jsonl", (str(tmp_path / "pairs.jsonl"),), held_out=0.2, tokenizer=str(tmp_path / "tokenizer.json"), length=8
    )
    pairs = prepare_pairs(config, tmp_path / "data", quiet)
    assert all(text.startswith("A RED dog  ") for (text,) in pairs.captions("train"))
