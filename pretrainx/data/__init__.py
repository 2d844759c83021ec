"""What feeds a run: documents, tokenizers, prepared token files, rows by step, placing on devices (floor 1)."""
