"""One small run that the commands look at."""

import pytest

from chaos.runs import write_recipe
from pretrainx.cli.main import main


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    """A config file and a run of it, 8 steps, saved after 4 and 8."""
    home = tmp_path_factory.mktemp("home")
    write_recipe(home, steps=8, every=4, eval_every=0, keep=2)
    words = ["--config.train.log_every=1"]
    assert main(["train", f"--config={home}/recipe.py", f"--workdir={home}/run", *words]) == 0
    return home
