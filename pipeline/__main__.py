"""`python -m pipeline` is the command `whim`."""

from pipeline.cli import main

if __name__ == "__main__":
    main()
