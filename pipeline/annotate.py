"""The script that `ray submit cluster/X.yaml pipeline/annotate.py -- run ...` uploads: the rest is installed by the cluster file."""

from pipeline.cli import main

if __name__ == "__main__":
    main()
