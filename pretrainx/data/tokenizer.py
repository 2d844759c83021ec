"""Tokenizers: byte-level ones, in which every text decodes to itself, and those of other models, which may change it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pretrainx.core.errors import ConfigError, DataError
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.data import pieces

if TYPE_CHECKING:
    import tokenizers

PAD, END = "<|pad|>", "<|eos|>"
SMALLEST = 2 + 256
# What tokenizers call the special tokens that rows and objectives need, ours first. Rows need the first two.
SPECIAL_NAMES = {
    "pad": (PAD, "<pad>", "[PAD]", "<|padding|>", "<|finetune_right_pad_id|>"),
    "eos": (END, "<|endoftext|>", "</s>", "<|end_of_text|>", "<end_of_text>", "<|im_end|>", "[SEP]", "<eos>"),
    "mask": ("<|mask|>", "[MASK]", "<mask>"),
    "bos": ("<|bos|>", "<s>", "<|begin_of_text|>", "<bos>", "<|startoftext|>", "<start_of_text>"),
    "cls": ("<|cls|>", "[CLS]", "<s>", "<cls>"),
    "sep": ("<|sep|>", "[SEP]", "</s>"),
}
SENTINELS = ("<|sentinel_{}|>", "<extra_id_{}>")  # ours, T5's
# Leading and inner blanks, line ends, a combining accent, a ligature: what normalisers and prefix rules change.
PROBE = "a  b\n\t\r\n  e\u0301 \u00e9 \ufb01 \u2167 \u6f22 \U0001f642 'll 0123 "


class Tokenizer:
    """A byte-level BPE (Sennrich et al. 2016, arXiv:1508.07909; over bytes as in GPT-2), or one of another model.

    Special tokens never come from text: "<|eos|>" in a document is encoded as its seven characters.

    Attributes:
      vocabulary: number of ids, the specials ("pad", 0), ("eos", 1) and those that there are of "mask", "bos", "cls", "sep"
        and of the names asked for (other ids in a tokenizer from elsewhere; one without padding gets an id of its own for
        it, the last, which is in no file), and the sentinels.
      lossless: whether every text comes back as it was. Tokenizers that are not byte-level lower-case it, drop blanks, or
        have no token for some characters.
      bytes_per_token: int32[V], how many bytes of text each id stands for; 0 for specials. Where the tokenizer is not
        lossless, these are the bytes of the piece without its marks, so of the normalised text (without the blanks between
        the words of a WordPiece): bits per byte made of them are no exact figure of the text itself.
      word_starts: bool[V], whether the token begins a word: byte-level if it begins with a blank or line end, else as its
        marks say; no special does. The first token of a document, which needs no blank, is found by its place.
      sentence_ends: bool[V], whether the token ends a sentence (see `Pieces.sentences`).
      digest: sha256 of the canonical JSON.
    """

    def __init__(
        self,
        inner: tokenizers.Tokenizer,
        where: str = "tokenizer",
        specials: tuple[str, ...] = (),
        sentinels: int = 0,
    ):
        """Raises DataError naming `where` for specials that are asked for and missing, or fewer sentinels."""
        self._text = inner.to_str(pretty=True)
        # They would cut documents at the length of the model that the file is from.
        inner.no_truncation()
        inner.no_padding()
        inner.encode_special_tokens = True
        self._inner = inner
        description = json.loads(self._text)
        self.digest = hashlib.sha256(_canonical(description)).hexdigest()
        added = {token["content"]: token for token in description.get("added_tokens", ())}
        known = inner.get_vocab(with_added_tokens=True)
        self.vocabulary = _vocabulary(known, added, where, specials, sentinels)
        # CLIP's marks where a word ends, and forgets which blanks stood there.
        self._suffix = description["model"].get("end_of_word_suffix") or ""
        forms = json.dumps([description.get(name) for name in ("pre_tokenizer", "decoder")])
        self.lossless = not self._suffix and '"ByteLevel"' in forms
        found = (
            pieces.of_bytes(known, added, where)
            if self.lossless
            else pieces.of_text(known, added, description["model"])
        )
        self._pieces = found.of + (b"",) * self.vocabulary.added
        self.bytes_per_token = np.array([len(piece) for piece in self._pieces], np.int32)
        more = lambda table: np.concatenate([table, np.zeros(self.vocabulary.added, bool)])
        self.word_starts, self.sentence_ends = more(found.words), more(found.sentences)
        self._lacking = pieces.missing(known) if self.lossless else []
        if self.lossless:
            self._refuse_loss(where)

    @classmethod
    def train(
        cls, documents: Iterable[str], vocab_size: int, specials: tuple[str, ...] = (), sentinels: int = 0
    ) -> Tokenizer:
        """Learns merges from texts; the same texts give the same tokenizer.

        After the merges come `specials` by name ("mask" is "<|mask|>"), and last the sentinels, of which the first has the
        last id. A small corpus may have fewer pairs worth merging than there is room for: then `vocabulary.size` is smaller.
        Raises ConfigError when `vocab_size` has no room for the 256 bytes and all special tokens, and for unusable names.
        """
        more = _more(specials, sentinels)
        if vocab_size < SMALLEST + len(more):
            raise ConfigError(
                "the vocabulary is too small for a byte-level tokenizer",
                where="config.data.vocab_size",
                why=f"{vocab_size} ids; 256 bytes and {2 + len(more)} special tokens need {SMALLEST + len(more)}",
                do=f"set it to {SMALLEST + len(more)} or more, or config.data.tokenizer to 'bytes'",
            )
        from tokenizers import Tokenizer as Inner
        from tokenizers import decoders, models, pre_tokenizers, trainers

        inner = Inner(models.BPE())
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        inner.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size - len(more),
            special_tokens=[PAD, END],
            initial_alphabet=pieces.byte_characters(),
            show_progress=False,
        )
        inner.train_from_iterator(documents, trainer)
        _add(inner, more)
        return cls(inner, "the trained tokenizer", specials, sentinels)

    @classmethod
    def of_bytes(cls, specials: tuple[str, ...] = (), sentinels: int = 0) -> Tokenizer:
        """No training: byte b is id b + 2; `specials` and sentinels follow as in `train`."""
        from tokenizers import Tokenizer as Inner
        from tokenizers import decoders, models, pre_tokenizers

        names = [PAD, END, *pieces.byte_characters()]
        inner = Inner(models.BPE(vocab={name: index for index, name in enumerate(names)}, merges=[]))
        # Lines are words here only so that no word is as long as a document.
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        inner.decoder = decoders.ByteLevel()
        _add(inner, [PAD, END, *_more(specials, sentinels)])
        return cls(inner, "the tokenizer 'bytes'", specials, sentinels)

    @classmethod
    def load(cls, path: str | Path, specials: tuple[str, ...] = (), sentinels: int = 0) -> Tokenizer:
        """Reads a tokenizer.json: one of ours, or any with an end-of-text token; `specials` and `sentinels` must be in it.

        One that is byte-level must be lossless. Truncation and padding that the file asks for are left undone.

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
        return cls(inner, str(path), tuple(specials), sentinels)

    def save(self, path: str | Path) -> None:
        """Writes tokenizer.json, readable by the `tokenizers` library and those built on it."""
        Path(path).write_text(self._text, encoding="utf-8")

    def encode_batch(self, texts: list[str], framed: bool = False) -> list[np.ndarray]:
        """The ids of each text, int32[n], without special tokens; `framed`: within the tokenizer's own (see `frame`).

        Raises DataError for half a surrogate pair, and for a byte that the tokenizer has no token for.
        """
        try:
            encodings = self._inner.encode_batch_fast(texts, add_special_tokens=False)
        except TypeError as error:
            raise DataError(
                "a text is not valid Unicode",
                where="a text to encode",
                why=str(error),
                do="give strings without lone surrogates",
            ) from error
        ids = [np.array(encoding.ids, np.int32) for encoding in encodings]
        if self._lacking:
            self._refuse_lost_bytes(texts)
        return [self.frame(text) for text in ids] if framed else ids

    def frame(self, ids: np.ndarray) -> np.ndarray:
        """Ids within the special tokens that the tokenizer's file puts around one text, such as [CLS] ids [SEP]."""
        before, after = self._frame
        return np.concatenate([before, ids, after]).astype(np.int32)

    @cached_property
    def _frame(self) -> tuple[list[int], list[int]]:
        plain = self._inner.encode(PROBE, add_special_tokens=False).ids
        framed = self._inner.encode(PROBE, add_special_tokens=True).ids
        more = len(framed) - len(plain)
        first = next(start for start in range(more + 1) if framed[start : start + len(plain)] == plain)
        return framed[:first], framed[first + len(plain) :]

    @property
    def spellings(self) -> dict[str, int]:
        """{token as the tokenizer's file writes it: id}."""
        return self._inner.get_vocab()

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; specials are left out, bytes that form no character (a cut one) become U+FFFD.

        Where the tokenizer is not lossless, the normalised text, joined as its file says.

        Raises DataError for an id outside the vocabulary.
        """
        array = np.asarray(ids if isinstance(ids, np.ndarray) else list(ids), np.int64).reshape(-1)
        self.vocabulary.check(array, "decode")
        if not self.lossless:
            text = self._inner.decode(array[array < self.vocabulary.predicted].tolist())
            return text.replace(self._suffix, " ").rstrip() if self._suffix else text
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


def _more(specials: tuple[str, ...], sentinels: int) -> list[str]:
    """The special tokens that are made beside padding and end, in the order of their ids."""
    for name in specials:
        if not re.fullmatch(r"[a-z]\w*", name, re.ASCII) or re.match(r"(pad|eos|sentinel_\d+)\Z", name):
            raise ConfigError(
                f"no special token can be named {name!r}",
                where="config.data.specials",
                why="names are small letters, digits and '_'; 'pad', 'eos' and sentinels are there without being named",
                do="rename it, or leave it out",
            )
    if len(set(specials)) < len(specials):
        why = ", ".join(specials)
        raise ConfigError("a special token is named twice", where="config.data.specials", why=why, do="name each once")
    return [f"<|{name}|>" for name in specials] + [SENTINELS[0].format(i) for i in reversed(range(sentinels))]


def _add(inner: tokenizers.Tokenizer, names: list[str]) -> None:
    from tokenizers import AddedToken

    inner.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])


def _vocabulary(
    known: dict[str, int], added: dict[str, dict], where: str, specials: tuple[str, ...], sentinels: int
) -> Vocabulary:
    if sorted(known.values()) != list(range(len(known))):
        raise DataError(
            "a tokenizer's ids have gaps",
            where=where,
            why=f"{len(known)} tokens, largest id {max(known.values(), default=-1)}",
            do="use a tokenizer whose ids are 0 .. size - 1",
        )
    found, size = [], len(known)
    for name in dict.fromkeys([*SPECIAL_NAMES, *specials]):
        spellings = SPECIAL_NAMES.get(name, (f"<|{name}|>", f"<{name}>", f"[{name.upper()}]"))
        token = next((known[spelling] for spelling in spellings if added.get(spelling, {}).get("special")), None)
        if token is None and name == "pad":  # GPT-2 has none; the end of text cannot serve, since it is a target
            token, size = size, size + 1
        if token is None and (name == "eos" or name in specials):
            raise DataError(
                f"a tokenizer has no {name!r} token",
                where=where,
                why=f"none of {', '.join(spellings)} is a special token of it",
                do="add one of them to the tokenizer, or train one: config.data.tokenizer = 'bpe'",
            )
        if token is not None:
            found.append((name, token))
    spans = max((_sentinels(known, spelling) for spelling in SENTINELS), key=len)
    if len(spans) < sentinels:
        raise DataError(
            "a tokenizer has too few sentinels",
            where=where,
            why=f"{sentinels} are asked for (config.data.sentinels), it has {len(spans)}",
            do="ask for no more, or train a tokenizer: config.data.tokenizer = 'bpe'",
        )
    return Vocabulary(size, tuple(found), size - len(known), spans)


def _sentinels(known: dict[str, int], spelling: str) -> tuple[int, ...]:
    """The ids of sentinel 0, 1, ... as far as there are any."""
    ids = []
    while (token := known.get(spelling.format(len(ids)))) is not None:
        ids.append(token)
    return tuple(ids)
