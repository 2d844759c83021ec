"""The command line: `pretrainx COMMAND ...`, also `python -m pretrainx` (the top floor)."""
