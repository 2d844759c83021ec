"""Errors that a person can act on, and the exit code of each."""

from __future__ import annotations


class PretrainxError(Exception):
    """Says what happened, where (config path, file, leaf), why (both values) and what to do.

    Shown as one block, last on stderr, without a traceback; the process ends with `exit_code`.
    """

    exit_code = 1
    shared = False  # whether all processes of a run raise it, so that one of them need show it

    def __init__(self, what: str, *, where: str = "", why: str = "", do: str = ""):
        super().__init__(what)
        self.what, self.where, self.why, self.do = what, where, why, do

    def __str__(self) -> str:
        lines = [self.what]
        for label, text in (("where", self.where), ("why", self.why), ("do", self.do)):
            if text:
                lines.append(f"  {label:<6}" + text.replace("\n", "\n        "))
        return "\n".join(lines)

    def block(self) -> str:
        first, *rest = str(self).split("\n")
        return "\n".join([f"error: {first}  (exit {self.exit_code})", *rest])


class ConfigError(PretrainxError):
    """A configuration or command line that cannot be meant."""

    exit_code = 2


class DataError(PretrainxError):
    """Data, tokenizer or data fingerprint."""

    exit_code = 3


class CheckpointError(PretrainxError):
    """No usable checkpoint, a mismatch, a failed save."""

    exit_code = 4


class OutOfMemoryError(PretrainxError):
    """Host or device memory does not suffice."""

    exit_code = 5


class NonFiniteError(PretrainxError):
    """Too many non-finite steps in a row."""

    exit_code = 6


class HangError(PretrainxError):
    """No progress: the watchdog's limit is over, or other processes of the run did not come."""

    exit_code = 7


class CollapseError(PretrainxError):
    """Embeddings of different examples became nearly the same, and the run was to end then."""

    exit_code = 8
    shared = True


class Preempted(PretrainxError):
    """A signal asked the run to end; its state is saved. Running the same command again resumes."""

    exit_code = 75
    shared = True


class Interrupted(PretrainxError):
    """A person stopped the run; its state is saved, a launcher does not restart it."""

    exit_code = 130
    shared = True


# The exit code of a check that was made, and that what it is of does not pass: a result, and nothing to be shown as an error.
CHECK_FAILED = 9


def close(name: str, names) -> str:
    """The one of `names` that is most like this one; "" where none is close."""
    import difflib

    return next(iter(difflib.get_close_matches(name, sorted(names), n=1, cutoff=0.5)), "")


def nearest(name: str, names) -> str:
    """`"; did you mean 'x'?"` for the closest of `names`, or the whole list where none is close."""
    if found := close(name, names):
        return f"did you mean {found!r}?"
    names = sorted(names)
    return "known: " + ", ".join(names) if names else "nothing is known here"
