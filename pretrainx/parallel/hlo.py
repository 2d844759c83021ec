"""The text of a compiled program (XLA's HLO), read as far as its costs need: computations, types, calls, and loops' trips."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from pretrainx.core.errors import PretrainxError

# Bits of an element where the name does not say them as `f32`, `s4` or `f8e4m3fn` do. token and opaque have none.
BITS = {"pred": 8, "bf16": 16, "c64": 64, "c128": 128}
SAME = ("copy", "copy-start", "copy-done", "convert", "bitcast", "reshape")  # the value that they are given
_NUMBER = re.compile(r"[suf](\d+)(?:e\d+m\d+\w*)?")
_SHAPE = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,]*)\]")
_COMMENT = re.compile(r"/\*.*?\*/")
_LINE = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = (.+)")
_HEADER = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\{\s*")
_OPCODE = re.compile(r"\s*([\w\-]+)\(")
_NAME = re.compile(r"%?([\w.\-]+)\s*$")
_CALLED = re.compile(r"\b(?:calls|to_apply|called_computations)=(?:\{([^}]*)\}|(%?[\w.\-]+))")
_BRANCHES = re.compile(r"\b(?:branch_computations=\{([^}]*)\}|(?:true|false)_computation=(%?[\w.\-]+))")
_TRIPS = re.compile(r'known_trip_count"?[:=]\{"?n"?[:=]"?(\d+)')


def bytes_of(type_text: str) -> int:
    """Bytes of an array type, or of all arrays of a tuple: `(f32[4,8]{1,0:T(8,128)}, bf16[2]{0})` has 132. What a layout pads
    is not counted."""
    total = 0
    for name, sides in _SHAPE.findall(_COMMENT.sub("", type_text)):
        number = _NUMBER.fullmatch(name)
        bits = BITS.get(name, int(number[1]) if number else 0)
        total += math.ceil(bits * math.prod(int(side) for side in sides.split(",") if side) / 8)
    return total


@dataclass(frozen=True)
class Instruction:
    """One line: `name = type opcode(operands), rest`. Operands are names without `%`; a constant has its value there."""

    name: str
    type: str
    opcode: str
    operands: tuple[str, ...]
    rest: str

    def attribute(self, pattern: str) -> str:
        """The first group of a regular expression in the attributes; "" where it matches nothing."""
        found = re.search(pattern, self.rest)
        return found[1] if found else ""

    @property
    def called(self) -> tuple[str, ...]:
        """Computations that run once where this line does."""
        return _names(_CALLED, self.rest)

    @property
    def branches(self) -> tuple[str, ...]:
        """Computations of which one runs."""
        return _names(_BRANCHES, self.rest)


@dataclass
class Computation:
    """A function of the program: its lines by name, in order, and the line that is its result."""

    name: str
    lines: dict[str, Instruction] = field(default_factory=dict)
    root: Instruction | None = None

    def source(self, name: str) -> Instruction | None:
        """The line that a value comes from, through copies and casts."""
        line = self.lines.get(name)
        while line is not None and line.opcode in SAME:
            line = self.lines.get(line.operands[0])
        return line

    def constant(self, name: str) -> int | None:
        """The whole number that a value is; None where it is none."""
        line = self.source(name)
        value = line.operands[0] if line is not None and line.opcode == "constant" and line.operands else ""
        return int(value) if re.fullmatch(r"-?\d+", value) else None

    def place(self, name: str) -> int | None:
        """Which element of the tuple that this function is given a value is; None where it is none."""
        line = self.source(name)
        if line is None or line.opcode != "get-tuple-element" or self.lines[line.operands[0]].opcode != "parameter":
            return None
        return int(line.attribute(r"index=(\d+)"))


@dataclass(frozen=True)
class Program:
    """A module: its computations by name, and the one that is run."""

    computations: Mapping[str, Computation]
    entry: Computation

    def trips(self, caller: Computation, loop: Instruction) -> int | None:
        """How often the body of a `while` of `caller` runs; None where the text does not say.

        CPU and GPU programs say it. TPU programs don't: there the condition compares a counter with a limit, and where the
        counter starts and how it advances is read from the loop's operand and its body.
        """
        if known := _TRIPS.search(loop.rest):
            return int(known[1])
        test = self.computations[loop.attribute(r"condition=%?([\w.\-]+)")]
        body = self.computations[loop.attribute(r"body=%?([\w.\-]+)")]
        given = caller.lines.get(loop.operands[0])
        if test.root.opcode != "compare" or given is None or given.opcode != "tuple":
            return None

        def start(place: int | None) -> int | None:
            return None if place is None else caller.constant(given.operands[place])

        for counter, limit in (test.root.operands, test.root.operands[::-1]):
            place, end = test.place(counter), test.constant(limit)
            begin, end = start(place), start(test.place(limit)) if end is None else end
            step = None if place is None else _step(body, place)
            if begin is not None and end is not None and step:
                inclusive = test.root.attribute(r"direction=(\w+)") in ("LE", "GE")
                return max(math.ceil((end - begin) / step) if not inclusive else (end - begin) // step + 1, 0)
        return None


def _step(body: Computation, place: int) -> int | None:
    """What a loop's body adds to element `place` of its tuple."""
    changed = body.source(body.root.operands[place]) if body.root.opcode == "tuple" else None
    if changed is None or changed.opcode not in ("add", "subtract"):
        return None
    places, amounts = (
        [found for found in map(look, changed.operands) if found is not None] for look in (body.place, body.constant)
    )
    if places != [place] or len(amounts) != 1:
        return None
    return amounts[0] if changed.opcode == "add" else -amounts[0]


def parse(text: str) -> Program:
    """`compiled.as_text()`, of a CPU, GPU or TPU program. PretrainxError where it is none."""
    computations, current, entry = {}, None, None
    for line in text.splitlines():
        if current is None:
            header = _HEADER.fullmatch(line)
            if header:
                current = computations[header[2]] = Computation(header[2])
                entry = current if header[1] else entry
        elif line.rstrip() == "}":  # a kernel's metadata go over several lines, one of which begins so
            current = None
        elif (found := _LINE.match(line)) and (instruction := _instruction(found[2], found[3])):
            current.lines[instruction.name] = instruction
            if found[1] or current.root is None:
                current.root = instruction
    if entry is None:
        raise PretrainxError(
            "this is no compiled program", where="its text", why="no ENTRY computation", do="compiled.as_text()"
        )
    return Program(computations, entry)


def _instruction(name: str, text: str) -> Instruction | None:
    text = _COMMENT.sub("", text)
    end = _closing(text, 0) + 1 if text.startswith("(") else text.find(" ")
    opcode = _OPCODE.match(text, end)
    if opcode is None:
        return None
    close = _closing(text, opcode.end() - 1)
    operands = tuple(found[1] if (found := _NAME.search(part)) else "" for part in _parts(text[opcode.end() : close]))
    return Instruction(name, text[:end], opcode[1], operands, text[close + 1 :])


def _closing(text: str, start: int) -> int:
    """Where the parenthesis that opens at `start` closes."""
    depth = 0
    for found in re.compile(r"[()]").finditer(text, start):
        depth += 1 if found[0] == "(" else -1
        if depth == 0:
            return found.start()
    return len(text)


def _parts(text: str) -> list[str]:
    """Operands; the commas of a type that stands before one are inside brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts if part.strip()]


def _names(pattern: re.Pattern, text: str) -> tuple[str, ...]:
    listed = ",".join(many or one for many, one in pattern.findall(text))
    return tuple(name.strip().lstrip("%") for name in listed.split(",") if name.strip())
