"""`python -m pretrainx COMMAND ...`."""

import sys

from pretrainx.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
