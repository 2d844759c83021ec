"""Which split a record belongs to: a function of its name, so that adding records moves no other across the splits."""

from __future__ import annotations

import hashlib


def fraction(name: str) -> float:
    """A number in [0, 1) that depends on the name alone."""
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48
