"""A directory of prepared pictures with captions: what prepared pictures are, and the tokens of their captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pretrainx.core.errors import ConfigError
from pretrainx.core.pairs import Pairs
from pretrainx.core.records import PairRows
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.data import captions, stored_tokenizer
from pretrainx.data.captions import Captions
from pretrainx.data.directory import read_description
from pretrainx.data.prepared import TOKENIZER
from pretrainx.data.prepared_images import (
    TRANSFORMS,
    HeldOutPictures,
    PictureRows,
    PreparedPictures,
    checked_images,
    verify_pictures,
)
from pretrainx.data.rows import Batch, TrainingRows
from pretrainx.data.tokenizer import Tokenizer

KIND, FORMAT = "pairs", 1
# Named in the fingerprint: a change of what a row is must not pass for the same data.
CAPTIONS = "captions-cut-between-ends/1"


class CaptionedRows(PictureRows):
    """Pictures of a split with their captions as rows."""

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray | None,
        reads: PairRows,
        found: Captions,
        vocabulary: Vocabulary,
    ):
        """images: uint8[N, S, S, C]; labels: int32[N]; found: the captions of the same N pictures.

        Raises ConfigError for a tokenizer without "bos" where captions begin with it, and for rows without room.
        """
        super().__init__(images, labels, reads)
        vocabulary.require("pad", "eos", *(["bos"] if reads.begin else []))
        self._captions, self._vocabulary, self._room = found, vocabulary, captions.room(reads.width, reads.begin)
        if self._room < 1:
            raise ConfigError(
                "a caption's row has no room for a token",
                where="config.data.length",
                why=f"{reads.width} tokens, of which {reads.width - self._room} are its ends",
                do="raise it",
            )

    def rows(self, numbers: Sequence[int]) -> Batch:
        found = super().rows(numbers)
        ids, sizes, real = self._captions.ids(np.asarray(numbers, np.int64), self.reads.captions, self._room)
        return found | {"tokens": self._framed(ids, sizes), "captions": real}

    def nothing(self, count: int) -> Batch:
        """A batch of so many black pictures with one empty caption, none of them valid."""
        batch = super().nothing(count)
        batch["tokens"] = self._framed(np.zeros(0, np.int32), np.zeros((count, self.reads.captions), np.int64))
        batch["captions"][:] = 1  # one is drawn among these, valid or not
        return batch

    def _framed(self, ids: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        return captions.framed(ids, sizes, self.reads.width, self._vocabulary, self.reads.begin)


@dataclass(frozen=True)
class PreparedPairs(PreparedPictures):
    """Pictures with captions.

    Attributes:
      meta: as of `PreparedPictures`, and dtype, tokenizer (its digest), vocab_size, and of each split captions {captions,
        tokens, empty (dropped), duplicates (captions that another picture of the split has too), cut (how many do not fit into
        cut_at tokens with "bos" and "eos"; rows without "bos" have room for one more), digests of the files}.
      tokenizer: what the ids mean.
    """

    tokenizer: Tokenizer = field(compare=False)

    @property
    def vocabulary(self) -> Vocabulary:
        return self.tokenizer.vocabulary

    @property
    def about(self) -> Pairs:
        """What models and objectives are built for."""
        return Pairs(self.images, self.vocabulary)

    def captions(self, split: str) -> Captions:
        """The texts of a split's captions by the number of the picture; ConfigError for a split that is not there."""
        self.arrays(split)
        return captions.opened(self.directory, split, self.meta["dtype"], self.tokenizer)

    def rows(self, split: str, reads: PairRows) -> CaptionedRows:
        """The rows of a split that an objective reads.

        Raises ConfigError for a form, a label or a special token that the pairs do not have.
        """
        return CaptionedRows(*self.checked(split, reads), reads, self.captions(split), self.vocabulary)

    def training_rows(self, reads: PairRows, batch_size: int, seed: int) -> TrainingRows:
        """The training batches by step."""
        return TrainingRows(self.rows("train", reads), batch_size, seed, self.vocabulary)

    def held_out(self, part: str, reads: PairRows, limit: int = 0, split: str = "held_out") -> HeldOutPictures:
        """Held-out pairs (or those of another split), the first `limit` of them where that is above 0."""
        return super().held_out(part, reads, limit, split)

    def fingerprint(self, seed: int, batch_size: int, reads: PairRows) -> dict[str, Any]:
        """What decides which pairs a step reads, as plain JSON values; equal on every machine that has the same data."""
        found = self._fingerprint(seed, batch_size, reads)
        train, held_out = (self.meta["splits"][split]["captions"]["digests"] for split in ("train", "held_out"))
        found["sources"][0] |= {"captions_digests": train, "held_out_captions_digests": held_out}
        return found | {
            "width": reads.width,
            "captions": reads.captions,
            "begin": reads.begin,
            "tokenizer": self.meta["tokenizer"],
            "vocab_size": self.meta["vocab_size"],
            "transforms": [*TRANSFORMS, CAPTIONS],
        }


def open_pairs(directory: str | Path) -> PreparedPairs:
    """Opens a prepared directory, reading every file once to compare its sha256 with data.json.

    Raises DataError naming the file that is missing, damaged or of another format version.
    """
    directory = Path(directory)
    meta = read_description(directory, KIND, FORMAT)
    images = checked_images(directory, meta)
    for split, facts in meta["splits"].items():
        captions.check_files(directory, split, facts["captions"])
    return PreparedPairs(images, directory, meta, stored_tokenizer.opened(directory / TOKENIZER, meta))


def verify_pairs(pairs: PreparedPairs) -> dict[str, str]:
    """{split: a line on its pictures and captions}. Raises DataError naming the first file that is not as it should be."""
    lines = verify_pictures(pairs)
    for split in pairs.splits:
        facts = pairs.meta["splits"][split]
        of_captions = captions.verify(
            pairs.directory, split, pairs.captions(split), facts["captions"], facts["pictures"]
        )
        lines[split] += f"; {of_captions}"
    return lines
