"""The leaves of a model by hand, one of each kind that an optimizer must tell apart: a stack, heads, a window, scalars."""

# path: (axis names, shape, one layer's shape as a vector or a matrix, role), all written by hand.
LEAVES = {
    "final_norm/scale": (("norm",), (6,), (6,), "norm"),
    "head/kernel": (("embed", "vocab"), (6, 20), (6, 20), "head"),
    "layers/gain": (("layers",), (3,), (), "scalar"),
    "layers/norm/scale": (("layers", "norm"), (3, 6), (6,), "norm"),
    "layers/out/kernel": (("layers", "heads", "head_dim", "embed"), (3, 2, 5, 6), (10, 6), "kernel"),
    "layers/query/bias": (("layers", "heads", "head_dim"), (3, 2, 5), (10,), "bias"),
    "layers/query/kernel": (("layers", "embed", "heads", "head_dim"), (3, 6, 2, 5), (6, 10), "kernel"),
    "layers/up/kernel": (("layers", "embed", "mlp"), (3, 6, 12), (6, 12), "kernel"),
    "temperature": ((), (), (), "scalar"),
    "token/table": (("vocab", "embed"), (20, 6), (20, 6), "embedding"),
    "window/kernel": ((None, None, "embed", "mlp"), (2, 3, 6, 8), (36, 8), "kernel"),
}
AXES = tuple((path, names) for path, (names, *_) in LEAVES.items())
SHAPES = {path: shape for path, (_, shape, *_) in LEAVES.items()}
