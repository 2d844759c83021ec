"""pretrainx: every paradigm of self-supervised pretraining through one train step."""

__version__ = "0.1.0"
