"""Tar shards in WebDataset's layout: members that share a key are one sample, read where they lie in the file."""

from __future__ import annotations

import tarfile
from collections.abc import Iterable
from pathlib import Path

from pretrainx.core.errors import DataError
from pretrainx.data.decoding import BadPictureError

BLOCK = 512  # bytes; a tar file is made of these, and ends with two of zeros
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


class Shards:
    """Samples of several shards behind one another.

    The key of a member is its path up to the first dot of the last name; what follows the key is its suffix, in any case.
    Nothing is unpacked: offsets are listed once, and contents read by seeking.

    Attributes:
      names: "SHARD:KEY" of each sample, in the order of the first member of each.
      passed_over: how many members are no regular file, or have a suffix that is not read.
    """

    def __init__(self, found: Iterable[tuple[str, Path]], pictures: tuple[str, ...], others: tuple[str, ...]):
        """found: (name, path) of each shard; pictures, others: the suffixes that are read.

        Raises DataError for a compressed, damaged or cut shard, and for two members of one name.
        """
        self.names: list[str] = []
        self.passed_over = 0
        self._pictures, self._read_suffixes = pictures, {*pictures, *others}
        self._places: list[tuple[Path, dict[str, tuple[int, int]]]] = []  # file, {suffix: offset, size}
        for name, path in found:
            self._list(name, path)

    def read(self, number: int, suffix: str) -> bytes | None:
        """The member with that suffix of a sample; None where there is none."""
        path, members = self._places[number]
        if suffix not in members:
            return None
        offset, size = members[suffix]
        with path.open("rb") as stream:
            stream.seek(offset)
            content = stream.read(size)
        if len(content) < size:
            raise _unusable(path, f"it was cut while it was read: {size} bytes were expected at {offset}")
        return content

    def picture(self, number: int) -> bytes | BadPictureError:
        """The encoded picture of a sample, or why there is none."""
        suffixes = [suffix for suffix in self._places[number][1] if suffix in self._pictures]
        if len(suffixes) != 1:
            there = ", ".join(self._places[number][1])
            return BadPictureError(f"{len(suffixes)} members are pictures, not one ({there})")
        return self.read(number, suffixes[0]) or b""

    def _list(self, name: str, path: Path) -> None:
        _refuse_compressed(path)
        samples: dict[str, dict[str, tuple[int, int]]] = {}
        try:
            with tarfile.open(path, "r:") as opened:
                while (member := opened.next()) is not None:
                    opened.members.clear()  # else it keeps a record of each
                    if member.isdir():
                        continue
                    folder, slash, last = member.name.removeprefix("./").rpartition("/")
                    key, dot, rest = last.partition(".")
                    suffix = (dot + rest).lower()
                    if not member.isreg() or member.issparse() or not key or suffix not in self._read_suffixes:
                        self.passed_over += 1
                        continue
                    members = samples.setdefault(folder + slash + key, {})
                    if suffix in members:
                        raise _unusable(path, f"two members are named {member.name}")
                    members[suffix] = (member.offset_data, member.size)
                end = opened.offset
        except (tarfile.TarError, OSError, EOFError, ValueError) as error:
            raise _unusable(path, f"{type(error).__name__}: {error}") from error
        _refuse_cut(path, end)
        self.names += [f"{name}:{key}" for key in samples]
        self._places += [(path, members) for members in samples.values()]


def _refuse_compressed(path: Path) -> None:
    try:
        with path.open("rb") as stream:
            begins = stream.read(8)
    except OSError as error:
        raise _unusable(path, str(error)) from error
    for magic, kind in COMPRESSED.items():
        if begins.startswith(magic):
            raise DataError(
                "a tar shard is compressed",
                where=str(path),
                why=f"it begins as {kind} does; members of a compressed file cannot be read where they lie",
                do="decompress it once (the pictures in it are compressed anyway)",
            )


def _refuse_cut(path: Path, end: int) -> None:
    """Because tarfile takes a damaged header behind the first member, or the end of the file, for the end of the archive."""
    with path.open("rb") as stream:
        stream.seek(end)
        block = stream.read(BLOCK)
    if block != bytes(BLOCK):
        raise _unusable(path, f"at {end} there is neither a member nor the block of zeros that ends a tar file")


def _unusable(path: Path, why: str) -> DataError:
    return DataError(
        "a tar shard is damaged or incomplete",
        where=str(path),
        why=why[:300],
        do="copy or write it anew, or leave it out of config.data.paths",
    )
