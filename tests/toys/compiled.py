"""What stands in a compiled program's text."""

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
