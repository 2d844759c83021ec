"""Pictures with captions made ready for models: pictures as those without are, captions as tokens beside them."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pretrainx.data import pair_sources, stored_tokenizer
from pretrainx.data.captions import CaptionWriter
from pretrainx.data.directory import once, refuse_another, sync_directory, write_description
from pretrainx.data.pair_sources import Pair
from pretrainx.data.picture_splits import PictureConfig, generated_sources, given_sources
from pretrainx.data.picture_writer import Decoded, PictureWriter, write_splits
from pretrainx.data.prepared import TOKENIZER
from pretrainx.data.prepared_pairs import FORMAT, KIND, PreparedPairs, open_pairs
from pretrainx.data.tokenizer import SMALLEST, Tokenizer


@dataclasses.dataclass(frozen=True)
class PairConfig(PictureConfig):
    """Pictures with captions as rows of one size and one number of tokens.

    A picture without a caption is bad, as one is that cannot be decoded: `bad` and `bad_limit` are of both.

    Attributes:
      source: "shapes" (generated), "jsonl", "tar" or "array_record" (see `pair_sources`).
      tokenizer: "bpe" (trained on the captions of the training split), "bytes", or the path of a tokenizer.json.
      vocab_size: ids of a trained tokenizer, 256 bytes and 2 specials included.
      length: W, tokens of a caption's row, "bos" and "eos" included; longer ones are cut when they are read.
      captions: K, the most captions of a picture that a row brings, the first ones; all are prepared.
      specials: names of special tokens for a tokenizer that is made here, beside "pad" and "eos"; one from a file must have
        them.
    """

    source: str = dataclasses.field(default="shapes", metadata={"choices": pair_sources.KINDS})
    tokenizer: str = "bpe"
    vocab_size: int = dataclasses.field(default=1024, metadata={"min": SMALLEST})
    length: int = dataclasses.field(default=32, metadata={"min": 3})
    captions: int = dataclasses.field(default=8, metadata={"min": 1})
    specials: tuple[str, ...] = ("bos",)
    sentinels = 0  # no field: no objective of pairs hides spans, and what makes a tokenizer asks for their number

    def preparing(self) -> dict[str, Any]:
        """The fields that decide what is prepared: one directory serves any length, and any number of captions."""
        unused = {"length", "captions"} | ({"vocab_size"} if self.tokenizer != "bpe" else set())
        return {name: value for name, value in super().preparing().items() if name not in unused}


def prepare_pairs(config: PairConfig, directory: str | Path, log: Callable[[str], None] = print) -> PreparedPairs:
    """The prepared pairs of a configuration: opened from `directory`, or made there, whole or not at all (see `once`).

    Raises what `prepare_images` raises, and what a tokenizer that cannot be used does.
    """
    directory = Path(directory)
    return once(directory, lambda work: _make(config, work, log), lambda: _reuse(config, directory), log)


def _reuse(config: PairConfig, directory: Path) -> PreparedPairs:
    pairs = open_pairs(directory)
    refuse_another(directory, pairs.meta["preparing"], config.preparing())
    stored_tokenizer.refuse_changed(config, directory, pairs.tokenizer)
    return pairs


def _make(config: PairConfig, work: Path, log: Callable[[str], None]) -> None:
    if config.source == "shapes":
        sources = generated_sources(config, pair_sources.generated)
    else:
        sources = given_sources(config, pair_sources.READERS[config.source])
    writers, _, meta = write_splits(config, work, *sources, PairWriter, log)
    tokenizer = stored_tokenizer.chosen(config, writers["train"].captions.texts)
    log(f"data: tokenizer with {tokenizer.vocabulary.size} ids")
    dtype = np.dtype("<u2" if tokenizer.vocabulary.size <= 1 << 16 else "<u4")
    for split, writer in writers.items():
        facts = writer.captions.finish(tokenizer, dtype, config.length) | {"empty": writer.empty}
        meta["splits"][split]["captions"] = facts
        log(
            f"data: {split}, {facts['captions']:,} captions of {facts['tokens']:,} tokens; {facts['empty']:,} empty ones "
            f"dropped, {facts['cut']:,} do not fit into {config.length} tokens with both ends, {facts['duplicates']:,} are of "
            "several pictures"
        )
    tokenizer.save(work / TOKENIZER)
    sync_directory(work)
    described = {"dtype": dtype.name, "tokenizer": tokenizer.digest, "vocab_size": tokenizer.vocabulary.size}
    write_description(work, {"format": FORMAT, "kind": KIND, **meta, **described})


def train_tokenizer(config: PairConfig) -> tuple[Tokenizer, int, int]:
    """(tokenizer, bytes of held-out captions, tokens that it makes of them): the one that `prepare_pairs` would use.

    Pictures are prepared too, in a temporary place: the captions of bad ones must not count.
    """
    with tempfile.TemporaryDirectory() as spare:
        pairs = prepare_pairs(config, Path(spare) / "data", lambda line: None)
        texts = [text for captions in pairs.captions("held_out") for text in captions]
        tokens = pairs.meta["splits"]["held_out"]["captions"]["tokens"]
    return pairs.tokenizer, sum(len(text.encode()) for text in texts), tokens


class PairWriter(PictureWriter):
    """Appends pictures with their captions to the files of one split.

    Attributes:
      empty: how many captions were empty, those of skipped pictures included.
    """

    def __init__(self, config: PairConfig, work: Path, split: str, expected: int, form, log: Callable[[str], None]):
        super().__init__(config, work, split, expected, form, log)
        self.captions, self.empty = CaptionWriter(work, split), 0

    def write(self, pictures: Iterator[Decoded]) -> None:
        super().write(self._counted(pictures))

    def keep(self, picture: Pair) -> None:
        self.captions.add(picture.captions)

    def _counted(self, pictures: Iterator[Decoded]) -> Iterator[Decoded]:
        for name, pair, found in pictures:
            self.empty += pair.empty
            yield name, pair, found
