"""Adaptation: objective -> objective."""
