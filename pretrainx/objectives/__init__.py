"""One file per paradigm of self-supervision: what to hide, what to recover, how to score it."""
