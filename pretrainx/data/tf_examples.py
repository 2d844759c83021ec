"""Records in the form of TensorFlow's `tf.train.Example`, read without TensorFlow: what most ArrayRecord files hold.

The message is features {key: bytes, floats or integers}; its wire format is protocol buffers'. Floats are passed over.
"""

from __future__ import annotations

from collections.abc import Iterator

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


def features(record: bytes) -> dict[str, list[bytes] | list[int]]:
    """{key: its bytes or its integers}. Raises ValueError for what is no Example."""
    found: dict[str, list[bytes] | list[int]] = {}
    for number, all_features in _fields(record):
        if number != 1:
            raise ValueError(f"field {number} of an Example")
        for _, entry in _fields(_bytes(all_features)):
            parts = dict(_fields(_bytes(entry)))  # of a map's entry: 1 is the key, 2 the value
            found[_bytes(parts.get(1, b"")).decode("utf-8")] = _values(_bytes(parts.get(2, b"")))
    return found


def _values(feature: bytes) -> list[bytes] | list[int]:
    for kind, values in _fields(feature):
        if kind == 1:
            return [_bytes(value) for _, value in _fields(_bytes(values))]
        if kind == 3:
            return [number for _, value in _fields(_bytes(values)) for number in _integers(value)]
    return []


def _integers(value: bytes | int) -> Iterator[int]:
    """Signed: one that stands alone, or several in one packed field."""
    if isinstance(value, int):
        yield value - (1 << 64) if value >> 63 else value
        return
    at = 0
    while at < len(value):
        number, at = _varint(value, at)
        yield number - (1 << 64) if number >> 63 else number


def _fields(message: bytes) -> Iterator[tuple[int, bytes | int]]:
    """(number, value) of each field: bytes, or an integer."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        number, wire = tag >> 3, tag & 7
        if wire == VARINT:
            value, at = _varint(message, at)
        else:
            if wire == BYTES:
                size, at = _varint(message, at)
            elif wire in (FIXED64, FIXED32):
                size = 8 if wire == FIXED64 else 4
            else:
                raise ValueError(f"wire type {wire}")
            if at + size > len(message):
                raise ValueError("a field is cut short")
            value, at = message[at : at + size], at + size
        yield number, value


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """(value, where it ends)."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise ValueError("a number is cut short")
        value |= (message[at] & 127) << shift
        at += 1
        if message[at - 1] < 128:
            return value, at
    raise ValueError("a number of more than ten bytes")


def _bytes(value: bytes | int) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError("an integer where a message is expected")
    return value
