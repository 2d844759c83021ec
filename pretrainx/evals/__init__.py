"""Evaluations of a run: held-out losses, probes, generation, and the baselines they are measured against (floor 4)."""
