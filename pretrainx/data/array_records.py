"""ArrayRecord files: their records in order, and an error that names the damaged file and record."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pretrainx.core.errors import DataError

SUFFIXES = (".array_record", ".arrayrecord")
# One read of many records costs about what one record costs, however the file groups them.
BATCH = 256


def count(path: Path) -> int:
    """How many records a file holds. Raises DataError where it is damaged or cut."""
    reader = _open(path)
    try:
        return reader.num_records()
    finally:
        reader.close()


def records(path: Path, wanted: Sequence[int] | None = None) -> Iterator[bytes]:
    """The records of a file in order, all or those of the numbers `wanted` (from 0).

    Raises DataError with the file, and the record's number where one is bad.
    """
    reader = _open(path)
    try:
        wanted = range(reader.num_records()) if wanted is None else wanted
        for first in range(0, len(wanted), BATCH):
            numbers = list(wanted[first : first + BATCH])
            try:
                batch = reader.read(numbers)
            except Exception as error:  # the library raises whatever its C++ status maps to
                raise _named(path, numbers, error) from error
            yield from batch
    finally:
        reader.close()


def _open(path: Path):
    from array_record.python import array_record_module

    try:
        # Read-ahead is for one record after another; here a batch is asked for at once.
        reader = array_record_module.ArrayRecordReader(str(path), "readahead_buffer_size:0,max_parallelism:0")
    except Exception as error:
        raise _damaged(str(path), str(error)) from error
    if not reader.ok():  # a file that is cut short opens without an exception, with no records
        raise _damaged(str(path), f"no record index at its end, {path.stat().st_size} bytes in all")
    return reader


def _named(path: Path, numbers: list[int], error: Exception) -> DataError:
    """The error of the first bad record among `numbers`: a reader that failed once is of no further use."""
    for number in numbers:
        reader = _open(path)
        try:
            reader.read([number])
        except Exception as single:
            return _damaged(f"{path}: record {number}", str(single))
        finally:
            reader.close()
    return _damaged(f"{path}: records {numbers[0]} to {numbers[-1]}", str(error))


def _damaged(where: str, why: str) -> DataError:
    return DataError(
        "an ArrayRecord file is damaged or incomplete",
        where=where,
        why=why[:300],
        do="copy or write the file anew, or leave it out of config.data.paths",
    )
