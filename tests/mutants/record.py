"""What a mutant is: a named one-line fault and the test that must turn red."""

from typing import NamedTuple


class Mutant(NamedTuple):
    """`old` occurs exactly once in `file` and becomes `new`; then the test `killer` must fail.

    Names M1 .. M38 are those of the contract's list; the others say what they break.
    """

    name: str
    what: str
    file: str
    old: str
    new: str
    killer: str
