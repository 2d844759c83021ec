"""kill -9 at random moments: every restart comes up, and no logged loss differs from the run that was left alone."""

import json
import os

import pytest

from chaos import kills
from chaos.runs import EVAL_EVERY, STEPS

pytestmark = [pytest.mark.chaos, pytest.mark.xdist_group("chaos")]


def judge(card, wanted, saves):
    print(f"\n{card.table()}\n" + "\n".join(card.log))
    if path := os.environ.get("PRETRAINX_CHAOS_JSON"):
        facts = {
            "kills": card.kills,
            "inside_a_save": card.inside_save,
            "places": card.places,
            "failed_restarts": card.failed_restarts,
            "values_compared": card.compared,
            "differing_losses": len(card.differing),
            "seed": card.seed,
        }
        with open(path, "w") as stream:
            json.dump(facts, stream, indent=1)
    assert card.failed_restarts == 0, card.log
    assert card.differing == [] and card.differing_leaves == []
    assert card.kills == wanted, card.log
    assert card.inside_save >= saves, card.log
    assert card.compared >= 2 * STEPS


def test_two_kills(unbroken):
    judge(kills.campaign(unbroken, 2, saves=1, seed=7, steps=STEPS, eval_every=EVAL_EVERY), 2, saves=1)


@pytest.mark.slow
@pytest.mark.rotated(alone=True)
def test_ten_kills(tmp_path, compiled):
    seed = int(os.environ.get("PRETRAINX_CHAOS_SEED", "2024"))
    reference = kills.unbroken(tmp_path, compiled, steps=150, every=20, eval_every=50)
    judge(kills.campaign(reference, 10, saves=4, seed=seed, steps=150, eval_every=50), 10, saves=3)
