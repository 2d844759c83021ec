"""Optimizers, schedules and parameter groups, chosen by a leaf's role and path."""
