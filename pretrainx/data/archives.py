"""Package archives (.whl and .zip, .tgz, .deb) as what they hold: named members are written out, nothing is run."""

from __future__ import annotations

import io
import lzma
import re
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from pretrainx.core.errors import DataError

_BROKEN = (tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, EOFError, OSError, ValueError)


def extract(archive: Path, patterns: tuple[str, ...], into: Path, links: bool = False) -> list[str]:
    """Writes the members whose whole name matches one of `patterns` below `into`; their names, sorted.

    Names are as in the archive, without a leading "./". Raises DataError for a damaged or unknown archive, a pattern
    that matches nothing, a member that is a link (with `links` it is passed over: second names of other members), and any
    member, wanted or not, whose path is absolute or climbs up.
    """
    found: list[str] = []
    try:
        with _opened(archive) as members:
            for name, regular, read in members:
                _refuse_climbing(name, archive)
                if not any(re.fullmatch(pattern, name) for pattern in patterns):
                    continue
                if not regular:
                    if links:
                        continue
                    raise _unusable(archive, f"the member {name} is no regular file")
                path = into / name
                path.parent.mkdir(parents=True, exist_ok=True)
                with read() as source, path.open("wb") as target:
                    shutil.copyfileobj(source, target, 1 << 20)
                found.append(name)
    except _BROKEN as error:
        raise _unusable(archive, f"{type(error).__name__}: {error}") from error
    for pattern in patterns:
        if not any(re.fullmatch(pattern, name) for name in found):
            raise _unusable(archive, f"no member matches {pattern}")
    return sorted(found)


@contextmanager
def _opened(archive: Path) -> Iterator[Iterator[tuple[str, bool, object]]]:
    """(name, whether a regular file, function that opens it) of each member."""
    if archive.name.endswith((".whl", ".zip")):
        with zipfile.ZipFile(archive) as opened:
            yield (
                (item.filename, not item.is_dir() and not _is_link(item), lambda item=item: opened.open(item))
                for item in opened.infolist()
            )
    elif archive.name.endswith((".tgz", ".tar.gz")):
        with tarfile.open(archive, "r:gz") as opened:
            yield _of_tar(opened)
    elif archive.name.endswith(".deb"):
        with tarfile.open(fileobj=_data_of_deb(archive), mode="r:*") as opened:
            yield _of_tar(opened)
    else:
        raise _unusable(archive, "its name ends in none of .whl, .zip, .tgz, .tar.gz, .deb")


def _of_tar(opened: tarfile.TarFile) -> Iterator[tuple[str, bool, object]]:
    for item in opened:
        yield item.name.removeprefix("./"), item.isreg(), lambda item=item: opened.extractfile(item)


def _is_link(item: zipfile.ZipInfo) -> bool:
    return (item.external_attr >> 16) & 0o170000 == 0o120000


def _data_of_deb(archive: Path) -> IO[bytes]:
    """The data.tar.* of a Debian package, which is an `ar` archive: headers of 60 bytes, contents padded to even length."""
    with archive.open("rb") as stream:
        if stream.read(8) != b"!<arch>\n":
            raise _unusable(archive, "it does not begin as an ar archive")
        while header := stream.read(60):
            if len(header) < 60 or header[58:] != b"`\n":
                raise _unusable(archive, "an ar header is damaged")
            name, size = header[:16].decode("ascii", "replace").strip().rstrip("/"), int(header[48:58])
            if name.startswith("data.tar"):
                if name.endswith(".zst"):
                    raise _unusable(archive, "its data are compressed with zstd; repack with dpkg-deb -Zxz")
                content = stream.read(size)
                if len(content) < size:
                    raise _unusable(archive, "it is cut short")
                return io.BytesIO(content)
            stream.seek(size + size % 2, io.SEEK_CUR)
    raise _unusable(archive, "it holds no data.tar")


def climbs(name: str) -> bool:
    """Whether a relative path would leave its directory."""
    path = PurePosixPath(name)
    return path.is_absolute() or ".." in path.parts or "\\" in name


def _refuse_climbing(name: str, archive: Path) -> None:
    if climbs(name):
        raise _unusable(archive, f"the member {name!r} would be written outside its directory")


def _unusable(archive: Path, why: str) -> DataError:
    return DataError(
        "an archive cannot be used", where=str(archive), why=why, do="fetch it again, or name another with --from"
    )
