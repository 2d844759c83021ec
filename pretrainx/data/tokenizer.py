"""Byte-level tokenizers: every text encodes, and decodes to itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pretrainx.core.errors import ConfigError, DataError
from pretrainx.core.vocabulary import Vocabulary

if TYPE_CHECKING:
    import tokenizers

PAD, END = "<|pad|>", "<|eos|>"
SMALLEST = 2 + 256
# What other byte-level tokenizers call the two specials that rows need, ours first.
SPECIAL_NAMES = {
    "pad": (PAD, "<pad>", "[PAD]", "<|padding|>", "<|finetune_right_pad_id|>"),
    "eos": (END, "<|endoftext|>", "</s>", "<|end_of_text|>", "<|im_end|>"),
}
# Bytes that tokenizers of other makers were trained without: control characters, and what no assigned character begins with.
RARE = {*range(0x20), 0x7F, 0xC0, 0xC1, *range(0xF1, 0x100)} - {*b"\t\n\r"}
# Leading and inner blanks, line ends, a combining accent, a ligature: what normalisers and prefix rules change.
PROBE = "a  b\n\t\r\n  e\u0301 \u00e9 \ufb01 \u2167 \u6f22 \U0001f642 'll 0123 "


def byte_characters() -> list[str]:
    """The printable character that stands for each byte 0 .. 255 (Radford et al. 2019, sec. 2.2, in their code)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("\u00a1"), ord("\u00ac") + 1), *range(0xAE, 0x100)]
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


class Tokenizer:
    """A byte-level BPE (Sennrich et al. 2016, arXiv:1508.07909; over bytes as in GPT-2).

    Special tokens never come from text: "<|eos|>" in a document is encoded as its seven characters.

    Attributes:
      vocabulary: number of ids, and the specials ("pad", 0), ("eos", 1) (other ids in a tokenizer from elsewhere; one without
        padding gets an id of its own for it, the last, which is in no file).
      bytes_per_token: int32[V], how many bytes of text each id stands for; 0 for specials.
      digest: sha256 of the canonical JSON.
    """

    def __init__(self, inner: tokenizers.Tokenizer, where: str = "tokenizer"):
        inner.encode_special_tokens = True
        self._inner = inner
        description = json.loads(inner.to_str())
        self.digest = hashlib.sha256(_canonical(description)).hexdigest()
        added = {token["content"]: token for token in description.get("added_tokens", ())}
        self.vocabulary = _vocabulary(inner, added, where)
        self._pieces = _pieces(inner, added, where) + (b"",) * self.vocabulary.added
        self.bytes_per_token = np.array([len(piece) for piece in self._pieces], np.int32)
        self._lacking = _missing(inner.get_vocab(with_added_tokens=True))
        self._refuse_loss(where)

    @classmethod
    def train(cls, documents: Iterable[str], vocab_size: int) -> Tokenizer:
        """Learns merges from texts; the same texts give the same tokenizer.

        A small corpus may have fewer than `vocab_size` - 258 pairs worth merging: then `vocabulary.size` is smaller.
        Raises ConfigError when `vocab_size` has no room for the 256 bytes and 2 specials.
        """
        if vocab_size < SMALLEST:
            raise ConfigError(
                "the vocabulary is too small for a byte-level tokenizer",
                where="config.data.vocab_size",
                why=f"{vocab_size} ids; 256 bytes and 2 special tokens need {SMALLEST}",
                do=f"set it to {SMALLEST} or more, or config.data.tokenizer to 'bytes'",
            )
        from tokenizers import Tokenizer as Inner
        from tokenizers import decoders, models, pre_tokenizers, trainers

        inner = Inner(models.BPE())
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        inner.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[PAD, END],
            initial_alphabet=byte_characters(),
            show_progress=False,
        )
        inner.train_from_iterator(documents, trainer)
        return cls(inner, "the trained tokenizer")

    @classmethod
    def of_bytes(cls) -> Tokenizer:
        """No training: byte b is id b + 2."""
        from tokenizers import AddedToken, decoders, models, pre_tokenizers
        from tokenizers import Tokenizer as Inner

        names = [PAD, END, *byte_characters()]
        inner = Inner(models.BPE(vocab={name: index for index, name in enumerate(names)}, merges=[]))
        # Lines are words here only so that no word is as long as a document.
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        inner.decoder = decoders.ByteLevel()
        inner.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in (PAD, END)])
        return cls(inner, "the tokenizer 'bytes'")

    @classmethod
    def load(cls, path: str | Path) -> Tokenizer:
        """Reads a tokenizer.json: one of ours, or any lossless byte-level BPE with an end-of-text token.

        Raises DataError naming the file when it is missing, damaged, or not such a tokenizer.
        """
        from tokenizers import Tokenizer as Inner

        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(
                "a tokenizer cannot be read", where=str(path), why=str(error), do="correct config.data.tokenizer"
            ) from error
        try:
            inner = Inner.from_str(text)
        except Exception as error:  # the library raises bare Exception
            raise DataError(
                "a file is no tokenizer", where=str(path), why=str(error), do="train it again, or copy it anew"
            ) from error
        return cls(inner, str(path))

    def save(self, path: str | Path) -> None:
        """Writes tokenizer.json, readable by the `tokenizers` library and those built on it."""
        Path(path).write_text(self._inner.to_str(pretty=True), encoding="utf-8")

    def encode_batch(self, texts: list[str]) -> list[np.ndarray]:
        """The ids of each text, int32[n], without special tokens.

        Raises DataError for half a surrogate pair, and for a byte that the tokenizer has no token for.
        """
        try:
            encodings = self._inner.encode_batch_fast(texts, add_special_tokens=False)
        except TypeError as error:
            raise DataError(
                "a text is not valid Unicode", why=str(error), do="give strings without lone surrogates"
            ) from error
        ids = [np.array(encoding.ids, np.int32) for encoding in encodings]
        if self._lacking:
            self._refuse_lost_bytes(texts)
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; specials are left out, bytes that form no character (a cut one) become U+FFFD.

        Raises DataError for an id outside the vocabulary.
        """
        array = np.asarray(ids if isinstance(ids, np.ndarray) else list(ids), np.int64).reshape(-1)
        self.vocabulary.check(array, "decode")
        return b"".join(self._pieces[index] for index in array.tolist()).decode("utf-8", errors="replace")

    @cached_property
    def end(self) -> int:
        """The id that ends a document."""
        return self.vocabulary.special("eos")

    def _refuse_lost_bytes(self, texts: list[str]) -> None:
        """Because the library leaves out, silently, what has no token."""
        for text in texts:
            lost = set(text.encode()) & set(self._lacking)
            if lost:
                raise DataError(
                    "the tokenizer has no token for a byte of the text",
                    where=f"{text[:40]!r} ...",
                    why=f"bytes {sorted(lost)}; it lacks {self._lacking}",
                    do="remove those characters from the text, or use another tokenizer",
                )

    def _refuse_loss(self, where: str) -> None:
        ids = self.encode_batch([PROBE])[0]
        if self.decode(ids) != PROBE or self.bytes_per_token[ids].sum() != len(PROBE.encode()):
            raise DataError(
                "a tokenizer changes the text it encodes",
                where=where,
                why=f"{PROBE!r} comes back as {self.decode(ids)!r}",
                do="use a byte-level BPE without normaliser and without a prefix blank (GPT-2's form)",
            )


def _canonical(description: dict) -> bytes:
    return json.dumps(description, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def _vocabulary(inner: tokenizers.Tokenizer, added: dict[str, dict], where: str) -> Vocabulary:
    known = inner.get_vocab(with_added_tokens=True)
    if sorted(known.values()) != list(range(len(known))):
        raise DataError(
            "a tokenizer's ids have gaps",
            where=where,
            why=f"{len(known)} tokens, largest id {max(known.values(), default=-1)}",
            do="use a tokenizer whose ids are 0 .. size - 1",
        )
    specials, size = [], len(known)
    for name, spellings in SPECIAL_NAMES.items():
        found = next((known[spelling] for spelling in spellings if added.get(spelling, {}).get("special")), None)
        if found is None and name == "pad":  # GPT-2 has none; the end of text cannot serve, since it is a target
            found, size = size, size + 1
        if found is None:
            raise DataError(
                f"a tokenizer has no {name!r} token",
                where=where,
                why=f"none of {', '.join(spellings)} is a special token of it",
                do="add one of them to the tokenizer, or train one: config.data.tokenizer = 'bpe'",
            )
        specials.append((name, found))
    return Vocabulary(size, tuple(specials), size - len(known))


def _missing(known: dict[str, int]) -> list[int]:
    """The bytes that no token of the vocabulary stands for."""
    return [byte for byte, character in enumerate(byte_characters()) if character not in known]


def _pieces(inner: tokenizers.Tokenizer, added: dict[str, dict], where: str) -> tuple[bytes, ...]:
    """The bytes of each id; none for special tokens."""
    known = inner.get_vocab(with_added_tokens=True)
    byte_of = {character: byte for byte, character in enumerate(byte_characters())}
    missing = [byte for byte in _missing(known) if byte not in RARE]
    if missing:
        raise DataError(
            "a tokenizer is not byte-level",
            where=where,
            why=f"{len(missing)} of the 256 bytes have no token, the first is {missing[0]}",
            do="use a byte-level BPE: then every text can be encoded",
        )
    pieces = [b""] * len(known)
    for token, index in known.items():
        if token not in added:
            if not set(token) <= byte_of.keys():
                raise DataError(
                    "a tokenizer is not byte-level", where=where, why=f"token {index} is {token!r}", do="use another"
                )
            pieces[index] = bytes(byte_of[character] for character in token)
        elif not added[token]["special"]:
            pieces[index] = token.encode()
    return tuple(pieces)
