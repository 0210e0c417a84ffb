"""The script that `ray submit cluster/X.yaml pipeline/annotate.py -- run ...` uploads: the rest is installed by the cluster file."""

import sys

from whim import main

if __name__ == "__main__":
    sys.exit(main())
