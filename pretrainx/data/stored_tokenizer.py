"""The tokenizer of prepared data: made or read as a configuration asks, kept in their directory, and found unchanged there."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

from pretrainx.core.errors import ConfigError, DataError, nearest
from pretrainx.data.directory import damaged
from pretrainx.data.tokenizer import Tokenizer

MADE_HERE = ("bpe", "bytes")


class Asked(Protocol):
    """What a configuration says of its tokenizer; see `text.Preparation`."""

    tokenizer: str
    vocab_size: int
    specials: tuple[str, ...]
    sentinels: int


def chosen(config: Asked, texts: Callable[[], Iterable[str]]) -> Tokenizer:
    """The tokenizer that is asked for, trained on `texts()` where it is to be trained: held-out text must not even choose
    the merges. ConfigError for one that there is not."""
    if config.tokenizer == "bytes":
        return Tokenizer.of_bytes(config.specials, config.sentinels)
    if config.tokenizer == "bpe":
        return Tokenizer.train(texts(), config.vocab_size, config.specials, config.sentinels)
    path = Path(config.tokenizer).expanduser()
    if not path.is_file():
        raise ConfigError(
            f"unknown tokenizer {config.tokenizer!r}",
            where="config.data.tokenizer",
            why=f"it is no file; {nearest(config.tokenizer, MADE_HERE)}",
            do="write 'bpe', 'bytes' or the path of a tokenizer.json",
        )
    return Tokenizer.load(path, config.specials, config.sentinels)


def refuse_changed(config: Asked, directory: Path, tokenizer: Tokenizer) -> None:
    """DataError where the file that the configuration names is no longer the tokenizer that data were prepared with."""
    path = Path(config.tokenizer).expanduser()
    from_file = config.tokenizer not in MADE_HERE and path.is_file()
    if from_file and Tokenizer.load(path).digest != tokenizer.digest:
        raise DataError(
            "the tokenizer changed after the data were prepared",
            where=f"config.data.tokenizer: {path}",
            why=f"{directory} was made with another content of that file",
            do=f"restore the file, or remove {directory} to prepare anew",
        )


def opened(path: Path, meta: dict[str, Any]) -> Tokenizer:
    """The tokenizer at `path` beside a data.json of this content. DataError where it is missing or another one."""
    if not path.is_file():
        raise damaged(path, "no such file")
    asked = meta["preparing"]
    tokenizer = Tokenizer.load(path, tuple(asked.get("specials", ())), asked.get("sentinels", 0))
    if tokenizer.digest != meta["tokenizer"]:
        raise damaged(path, f"sha256 {tokenizer.digest[:12]}..., prepared with {meta['tokenizer'][:12]}...")
    return tokenizer
