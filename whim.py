"""The command `whim`: what builds the data is the pipeline's, what learns from it is training's; neither knows the other."""

import sys

TRAINING = ("train-detector", "evaluate-detector", "detect", "export-detector")


def main() -> None:
    """Hand the words to whom they are for; `whim evaluate detector` is `evaluate-detector`."""
    words = sys.argv[1:]
    if words[:2] == ["evaluate", "detector"]:
        words = ["evaluate-detector", *words[2:]]
    if words[:1] and words[0] in TRAINING:
        from training.cli import main as training

        training(words)
        return
    from pipeline.cli import main as pipeline

    pipeline(words)


if __name__ == "__main__":
    main()
