"""What each id of a tokenizer stands for: its bytes, whether it begins a word, whether it ends a sentence."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from pretrainx.core.errors import DataError

# Bytes that tokenizers of other makers were trained without: control characters, and what no assigned character begins with.
RARE = {*range(0x20), 0x7F, 0xC0, 0xC1, *range(0xF1, 0x100)} - {*b"\t\n\r"}
BLANK = "\u2581"  # SentencePiece's mark of a blank
BYTE = re.compile("<0x([0-9A-F]{2})>")  # its spelling of a byte that no piece holds
# A stop, closing quotes and brackets, blanks; or a blank line within the piece.
SENTENCE_END = re.compile(r"[.!?\u3002\uff01\uff1f][\"'\u2019\u201d\u00bb)\]]*\s*\Z|\n[ \t\r]*\n")


@dataclass(frozen=True, eq=False)
class Pieces:
    """The tokens of a vocabulary as text.

    Attributes:
      of: the bytes of each id, without the marks that say how pieces join; none for special and unknown tokens.
      words: bool[V], whether the piece begins a word.
    """

    of: tuple[bytes, ...]
    words: np.ndarray

    @property
    def sentences(self) -> np.ndarray:
        """bool[V]: whether the piece ends a sentence: it ends with a stop, or holds a blank line.

        A stop is . ! ? or one of their full-width forms; closing quotes, brackets and blanks may follow. In prose that
        takes the point of an abbreviation for an end, in code that of an attribute: whole lines of code are no unit.
        """
        ends = lambda piece: SENTENCE_END.search(piece.decode("utf-8", errors="replace")) is not None
        return np.array([ends(piece) for piece in self.of], bool)


def byte_characters() -> list[str]:
    """The printable character that stands for each byte 0 .. 255 (Radford et al. 2019, sec. 2.2, in their code)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("\u00a1"), ord("\u00ac") + 1), *range(0xAE, 0x100)]
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


def missing(known: dict[str, int]) -> list[int]:
    """The bytes that no token of the vocabulary stands for."""
    return [byte for byte, character in enumerate(byte_characters()) if character not in known]


def of_bytes(known: dict[str, int], added: dict[str, dict], where: str) -> Pieces:
    """Of a byte-level tokenizer. A piece that begins with a blank or a line end begins a word.

    known: {token: id}; added: the added tokens of tokenizer.json by content. Raises DataError naming `where` for a
    vocabulary that is not of bytes.
    """
    lacking = [byte for byte in missing(known) if byte not in RARE]
    if lacking:
        raise DataError(
            "a tokenizer is not byte-level",
            where=where,
            why=f"{len(lacking)} of the 256 bytes have no token, the first is {lacking[0]}",
            do="use a byte-level BPE: then every text can be encoded",
        )
    byte_of, pieces = {character: byte for byte, character in enumerate(byte_characters())}, [b""] * len(known)
    for token, index in known.items():
        if token not in added:
            if not set(token) <= byte_of.keys():
                raise DataError(
                    "a tokenizer is not byte-level", where=where, why=f"token {index} is {token!r}", do="use another"
                )
            pieces[index] = bytes(byte_of[character] for character in token)
        elif not added[token]["special"]:
            pieces[index] = token.encode()
    begins = lambda piece: piece.decode("utf-8", errors="replace")[:1].isspace()
    return Pieces(tuple(pieces), np.array([begins(piece) for piece in pieces], bool))


def of_text(known: dict[str, int], added: dict[str, dict], model: dict) -> Pieces:
    """Of a tokenizer of characters: WordPiece, Unigram, SentencePiece's BPE, whole words; and CLIP's, of bytes with a mark
    where a word ends.

    A piece begins a word unless it has the prefix of continuations (WordPiece's "##"); where the vocabulary marks blanks, if
    it begins with that mark. model: the section of tokenizer.json.
    """
    prefix = model.get("continuing_subword_prefix") or ""
    marked = any(token.startswith(BLANK) for token in known)
    unknown, suffix = model.get("unk_token"), model.get("end_of_word_suffix") or ""
    byte_of = {character: byte for byte, character in enumerate(byte_characters())} if suffix else {}
    pieces, words = [b""] * len(known), np.zeros(len(known), bool)
    for token, index in known.items():
        if added.get(token, {}).get("special") or token == unknown or index == model.get("unk_id"):
            continue
        if suffix:  # bytes, as CLIP has them; whether a word begins there, the token before it says
            spelt = (
                bytes([byte_of[each]]) if each in byte_of else each.encode() for each in token.removesuffix(suffix)
            )
            pieces[index] = b"".join(spelt) + b" " * token.endswith(suffix)
            continue
        joined = bool(prefix) and token.startswith(prefix) and token not in added
        words[index] = token.startswith(BLANK) if marked else not joined
        byte = BYTE.fullmatch(token) if model.get("byte_fallback") else None
        text = token[len(prefix) :] if joined else token.replace(BLANK, " ")
        pieces[index] = bytes([int(byte[1], 16)]) if byte else text.encode()
    return Pieces(tuple(pieces), words)
