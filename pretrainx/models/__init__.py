"""Linen definitions: pure `init` and `apply`, logical axis names on every parameter, no mesh and no collective."""
