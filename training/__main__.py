"""`python -m training`: train, evaluate and use the networks."""

from training.cli import main

if __name__ == "__main__":
    main()
