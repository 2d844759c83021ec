"""Facts about the tokens of a row that objectives read beside them: documents, words, sentences."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Marks:
    """What the ids of a tokenizer say about the text that they stand for.

    Attributes:
      pad: the id that fills rows; end: the one that ends a document.
      words: bool[V], whether a token begins a word; sentences: bool[V], whether it ends a sentence.
    """

    pad: int
    end: int
    words: np.ndarray
    sentences: np.ndarray


def neighbours(stream: np.ndarray, start: int, count: int, end: int) -> tuple[np.ndarray, np.ndarray]:
    """(the token before each of stream[start : start + count], the one after it); beyond the stream, `end`."""
    around = np.full(count + 2, end, np.int64)
    first, last = max(start - 1, 0), min(start + count + 1, len(stream))
    around[first - start + 1 : last - start + 1] = stream[first:last]
    return around[:-2], around[2:]


def begins_word(ids: np.ndarray, before: np.ndarray, marks: Marks) -> np.ndarray:
    """bool[n]: where a token begins a word: by its own spelling, or as the first of its document."""
    # Clipped: an id outside the vocabulary is for the check of the whole batch to find.
    return (marks.words.take(ids, mode="clip") | (before == marks.end)) & (ids != marks.end)


def ends_sentence(ids: np.ndarray, before: np.ndarray, after: np.ndarray, marks: Marks) -> np.ndarray:
    """bool[n]: where a token ends a sentence: a stop that follows no other (Lewis et al. 2020, in their code).

    A document's last sentence ends with the id that ends the document, not with the stop in front of it.
    """
    stops = marks.sentences.take(ids, mode="clip") & ~marks.sentences.take(before, mode="clip")
    return (stops & (after != marks.end)) | (ids == marks.end)


def documents_before(ids: np.ndarray, end: int) -> np.ndarray:
    """int[n]: how many documents ended before each token."""
    ends = ids == end
    return np.cumsum(ends) - ends
