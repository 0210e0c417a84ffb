"""`python -m pipeline` is the command `whim`: it works in a checkout where only the dependencies are installed."""

import sys

from whim import main

if __name__ == "__main__":
    sys.exit(main())
