"""What stands in a compiled program's text."""

import math
import re


def loops(text):
    """The instructions inside the loops of a compiled program."""
    bodies, name, found = set(re.findall(r"body=%?([\w.\-]+)", text)), None, []
    for line in text.splitlines():
        if line and not line.startswith(" "):
            name = line.split()[0].lstrip("%")
        elif name in bodies:
            found.append(line)
    return found


def crossing(text):
    """(collective, [elements of each array]) of everything in a compiled program that moves data between devices."""
    kinds = "all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute"
    for shapes, kind in re.findall(rf"= (.*?) ({kinds})(?:-start)?\(", text):
        yield (
            kind,
            [math.prod(map(int, found.split(","))) if found else 1 for found in re.findall(r"\w\[([\d,]*)\]", shapes)],
        )
