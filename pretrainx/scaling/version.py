"""Which program it is: its version, and the commit where it runs from a checkout."""

from __future__ import annotations

import functools
import subprocess
from pathlib import Path

from pretrainx import __version__


@functools.cache
def version() -> str:
    """ "0.1.0", or "0.1.0+1a2b3c4d" in a checkout, with ".changed" where files differ from that commit."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return __version__
    describe = ["git", "-C", str(root), "describe", "--always", "--exclude=*", "--abbrev=8", "--dirty=.changed"]
    try:
        found = subprocess.run(describe, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return __version__
    return f"{__version__}+{found}"
