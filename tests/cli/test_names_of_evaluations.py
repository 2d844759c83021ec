"""The help of `eval` names every evaluation, and those apart that are made only when named."""

import re

from pretrainx.cli.evals import COMMANDS
from pretrainx.runs.evals import EVALUATIONS, ONLY_NAMED


def test_the_flag_names_all():
    (text,) = (flag.help for command in COMMANDS for flag in command.flags if flag.name == "evals")
    by_themselves, named = (re.findall("[a-z_]+", part) for part in text.split("made only when named:"))
    assert sorted(named) == sorted(ONLY_NAMED)
    assert set(by_themselves) >= set(EVALUATIONS) - set(ONLY_NAMED) and not set(by_themselves) & set(ONLY_NAMED)
