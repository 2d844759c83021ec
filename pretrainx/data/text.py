"""Text made ready for language models: tokenised once, split by document, kept in a directory."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pretrainx.core.errors import ConfigError, DataError
from pretrainx.data import prepared, sources, stored_tokenizer
from pretrainx.data.corpus import Corpus, Part, SplitWriter, weighted_texts
from pretrainx.data.directory import once, refuse_another, sync_directory, write_description
from pretrainx.data.packing import write_documents, write_packing
from pretrainx.data.prepared import PreparedText
from pretrainx.data.tokenizer import SMALLEST, Tokenizer


@dataclasses.dataclass(frozen=True)
class Preparation:
    """What text of one source and of several have in common.

    Attributes:
      tokenizer: "bpe" (trained on the training split), "bytes", or the path of a tokenizer.json.
      vocab_size: ids of a trained tokenizer, 256 bytes and 2 specials included.
      length: T, targets per row. Part of the preparation only where documents are packed: one directory of streams
        serves any length.
      packing: "stream" (rows cut from one stream of tokens), "documents" (rows of whole documents, told apart by
        segments; those longer than a row are cut) or "single" (one document, or piece of one, in each row, padded).
      width: tokens of a packed row; 0 is T + 1, of which the pieces of a long document share one: what next-token
        prediction reads. Otherwise pieces share none. Rows that do not fit the objective are refused, naming its width.
      specials: names of special tokens for a tokenizer that is made here, such as ("mask", "cls", "sep"), beside "pad" and
        "eos"; one from a file must have them.
      sentinels: how many tokens stand for hidden spans, the last ids of the tokenizer (`vocab_size` counts them).
      held_out: the fraction of documents kept from training (of the text, where there is one document).
      cache: directory of prepared data shared between runs; "" means the run's own.
    """

    tokenizer: str = "bpe"
    vocab_size: int = dataclasses.field(default=1024, metadata={"min": SMALLEST})
    length: int = dataclasses.field(default=256, metadata={"min": 1})
    packing: str = dataclasses.field(default="stream", metadata={"choices": tuple(prepared.PACKINGS)})
    width: int = dataclasses.field(default=0, metadata={"min": 0})
    specials: tuple[str, ...] = ()
    sentinels: int = dataclasses.field(default=0, metadata={"min": 0})
    held_out: float = dataclasses.field(default=0.05, metadata={"min": 0.0, "max": 0.9})
    cache: str = ""

    def __post_init__(self):
        if self.width and not self.segmented:
            raise ConfigError(
                "a width is given for rows that have the objective's own",
                where="config.data.width",
                why=f"config.data.packing is {self.packing!r}; only rows of 'documents' are made when the data are prepared",
                do="leave it out, or set config.data.packing to 'documents'",
            )

    @property
    def segmented(self) -> bool:
        """Whether batches have the field `segments`."""
        return self.packing == "documents"

    def preparing(self) -> dict[str, Any]:
        """The fields that decide what is prepared, as plain JSON values."""
        fields: dict[str, Any] = {"tokenizer": self.tokenizer, "held_out": self.held_out}
        if self.tokenizer == "bpe":
            fields["vocab_size"] = self.vocab_size
        if self.segmented:
            fields |= {"packing": self.packing} | ({"width": self.width} if self.width else {"length": self.length})
        elif self.packing != "stream":
            fields["packing"] = self.packing
        # Named only where they are asked for: what was prepared before there were any stays valid.
        if self.specials:
            fields["specials"] = list(self.specials)
        if self.sentinels:
            fields["sentinels"] = self.sentinels
        return fields


@dataclasses.dataclass(frozen=True)
class TextConfig(Preparation):
    """A text corpus as token rows.

    Attributes:
      source, paths, field: where documents come from (see `sources.documents`).
    """

    source: str = dataclasses.field(default="stdlib", metadata={"choices": sources.KINDS})
    paths: tuple[str, ...] = ()
    field: str = "text"

    @property
    def parts(self) -> tuple[Part, ...]:
        return (Part(source=self.source, paths=self.paths, field=self.field),)

    def preparing(self) -> dict[str, Any]:
        return super().preparing() | self.parts[0].preparing()


@dataclasses.dataclass(frozen=True)
class MixtureConfig(Preparation):
    """Several corpora, one tokenizer; training rows come from each in the proportion of its weight.

    Every part has a held-out split of its own; a trained tokenizer sees their training texts in that proportion too.

    Attributes:
      parts: at least one, with names that differ.
    """

    parts: tuple[Part, ...] = ()

    def __post_init__(self):
        super().__post_init__()
        names = [part.name for part in self.parts]
        if not names:
            raise ConfigError(
                "a mixture has no parts",
                where="config.data.parts",
                why="it is empty",
                do="give some, each with name, weight and source",
            )
        for name in names:
            if not re.fullmatch(r"\w[\w-]*", name, re.ASCII):
                raise ConfigError(
                    f"a part cannot be named {name!r}",
                    where="config.data.parts",
                    why="names are letters, digits, '_' and '-'",
                    do="rename it",
                )
        if len(set(names)) < len(names):
            why = ", ".join(sorted(names))
            raise ConfigError("two parts have the same name", where="config.data.parts", why=why, do="rename one")

    def preparing(self) -> dict[str, Any]:
        # With a tokenizer that is not trained here, other weights need no other preparation.
        weight = lambda part: {"weight": part.weight} if self.tokenizer == "bpe" else {}
        parts = [{"name": part.name, **weight(part), **part.preparing()} for part in self.parts]
        return super().preparing() | {"parts": parts}


def prepare(config: Preparation, directory: str | Path, log: Callable[[str], None] = print) -> PreparedText:
    """The prepared text of a configuration: opened from `directory`, or made there.

    It is made in a sibling directory that takes the name when complete, so half a preparation never looks whole; of
    two processes that prepare at once, one wins and the other uses its result. Reuse compares the configuration and
    the digests of all files; the source is not read again.

    Raises DataError for an unusable source, a split without documents, a damaged file, or a directory made with
    another configuration (the field and both values are named); ConfigError for a configuration that cannot be meant.
    """
    directory = Path(directory)
    return once(directory, lambda work: _make(config, work, log), lambda: _reuse(config, directory), log)


def _weights(config: Preparation) -> tuple[float, ...]:
    return tuple(part.weight for part in config.parts if part.name)


def _reuse(config: Preparation, directory: Path) -> PreparedText:
    text = prepared.open_prepared(directory, _weights(config))
    refuse_another(directory, text.meta["preparing"], config.preparing())
    stored_tokenizer.refuse_changed(config, directory, text.tokenizer)
    return text


def _make(config: Preparation, work: Path, log: Callable[[str], None]) -> None:
    corpora = [Corpus(part, config.held_out) for part in config.parts]
    for corpus in corpora:
        log(f"data: {_called(corpus.part)}, {corpus.documents} documents, {corpus.bytes:,} bytes")
    tokenizer = _tokenizer(config, corpora)
    log(f"data: tokenizer with {tokenizer.vocabulary.size} ids")
    dtype = np.dtype("<u2" if tokenizer.vocabulary.size <= 1 << 16 else "<u4")
    parts = [_write_part(config, corpus, tokenizer, dtype, work, log) for corpus in corpora]
    tokenizer.save(work / prepared.TOKENIZER)
    meta = {
        "format": prepared.FORMAT,
        "preparing": config.preparing(),
        "packing": config.packing,
        "length": config.length if config.segmented and not config.width else 0,
        **({"width": config.width} if config.segmented and config.width else {}),
        "parts": parts,
        "splits": {split: _total([part["splits"][split] for part in parts]) for split in prepared.SPLITS},
        "dtype": dtype.name,
        "tokenizer": tokenizer.digest,
        "vocab_size": tokenizer.vocabulary.size,
    }
    write_description(work, meta)


def _called(part: Part) -> str:
    return f"{part.name} ({part.source})" if part.name else part.source


def _write_part(
    config: Preparation, corpus: Corpus, tokenizer: Tokenizer, dtype: np.dtype, work: Path, log: Callable[[str], None]
) -> dict[str, Any]:
    """Writes the files of one part; what data.json says of it."""
    name = corpus.part.name
    (work / name).mkdir(exist_ok=True)
    stems = {split: prepared.stem_of(work, name, split) for split in prepared.SPLITS}
    writers = {split: SplitWriter(Path(f"{stem}.bin"), tokenizer, dtype) for split, stem in stems.items()}
    for split, document in corpus.pieces():
        writers[split].add(document.text)
    splits = {split: writer.finish() for split, writer in writers.items()}
    if sum(split["bytes"] for split in splits.values()) != corpus.bytes:
        raise DataError(
            "the source changed while it was read",
            where=corpus.part.where("paths"),
            why=f"{corpus.bytes:,} bytes at first, {sum(split['bytes'] for split in splits.values()):,} later",
            do="wait until the source is complete, then run again",
        )
    for split, facts in splits.items():
        called = f"{name} {split}".strip()
        log(f"data: {called}, {facts['documents']} documents, {facts['tokens']:,} tokens, {facts['bytes']:,} bytes")
        if config.segmented:
            width, overlap = (config.width, 0) if config.width else (config.length + 1, 1)
            facts |= write_packing(Path(stems[split]), writers[split].lengths, width, overlap)
            log(f"data: {called}, {facts['rows']:,} rows of whole documents, {facts['fill']:.2%} full")
        elif config.packing == "single":
            facts |= write_documents(Path(stems[split]), writers[split].lengths)
    sync_directory(work / name)
    return {"name": name, "source": {"kind": corpus.part.source, "names": corpus.names}, "splits": splits}


def _total(splits: list[dict[str, Any]]) -> dict[str, Any]:
    """The counts of several splits together; the digest of one alone is its own."""
    counts = {name: sum(split[name] for split in splits) for name in ("documents", "bytes", "tokens")}
    joined = hashlib.sha256("".join(split["digest"] for split in splits).encode()).hexdigest()
    return {**counts, "digest": splits[0]["digest"] if len(splits) == 1 else joined}


def train_tokenizer(config: Preparation) -> tuple[Tokenizer, int, int]:
    """(tokenizer, bytes of held-out text, tokens that it makes of them), without preparing anything.

    The tokenizer that `prepare` would use for the configuration.
    """
    corpora = [Corpus(part, config.held_out) for part in config.parts]
    tokenizer, texts = _tokenizer(config, corpora), []
    for corpus in corpora:
        texts += [document.text for split, document in corpus.pieces() if split == "held_out"]
    tokens = sum(len(ids) for ids in tokenizer.encode_batch(texts))
    return tokenizer, sum(len(text.encode()) for text in texts), tokens


def _tokenizer(config: Preparation, corpora: list[Corpus]) -> Tokenizer:
    return stored_tokenizer.chosen(config, lambda: weighted_texts(corpora))
