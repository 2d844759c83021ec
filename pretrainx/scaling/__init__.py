"""Scaling-law experiments: plan many runs, run them, fit a law to what they reached, predict, write the next config."""
