"""State, the one train step, guard, checkpoints and the loop."""
