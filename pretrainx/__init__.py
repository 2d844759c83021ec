"""pretrainx: every paradigm of self-supervised pretraining through one train step."""

__version__ = "0.1.0"


def __getattr__(name: str):
    # On first use, so that `import pretrainx` and the command line's help stay free of JAX.
    if name == "make_train_step":
        from pretrainx.training.step import make_train_step

        return make_train_step
    if name == "load":
        from pretrainx.runs.load import load

        return load
    raise AttributeError(f"module 'pretrainx' has no attribute {name!r}")
