"""How many configurations `pretrainx plan` compiles at most, where --limit does not say. Read before JAX may be imported."""

SWEEP = 8
SEARCH = 6  # for a change that fits
