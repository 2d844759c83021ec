"""Meshes, axis rules and activation constraints (floor 1, below models: model text names axes through `constrain`)."""
