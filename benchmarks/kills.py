"""kill -9 against the shipped command: one run killed N times at random moments, compared with the run left alone.

    python benchmarks/kills.py [--kills=10] [--seed=0] [--json=FILE]

About one minute per ten kills on two CPU cores. The driver is that of the test suite (tests/chaos/kills.py).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from chaos import kills  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", default="", help="also write the card to this file")
    arguments = parser.parse_args()
    steps, eval_every = max(150, 15 * arguments.kills), 50
    with tempfile.TemporaryDirectory(prefix="pretrainx-kills-") as directory:
        reference = kills.unbroken(Path(directory), Path(directory) / "compiled", steps, 20, eval_every)
        saves = -(-arguments.kills * 2 // 5)
        card = kills.campaign(reference, arguments.kills, saves, arguments.seed, steps, eval_every)
    print("\n".join(card.log))
    print(card.table())
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(dataclasses.asdict(card), indent=1) + "\n")
    return 1 if card.failed_restarts or card.differing or card.differing_leaves else 0


if __name__ == "__main__":
    sys.exit(main())
