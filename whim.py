"""The command `whim`: what builds the data is the pipeline's, what learns from it is training's; neither knows the other."""

import argparse
import sys
from collections.abc import Sequence

_TRAINING = (
    *("train-detector", "evaluate-detector", "detect", "export-detector"),
    *("train-regressor", "evaluate-regressor", "reconstruct", "export-regressor"),
)


def main() -> None:
    """Hand the words to whom they are for."""
    words = _spelt(sys.argv[1:])
    if _is_training(words):
        from training.cli import main as training

        training(words)
        return
    from pipeline.cli import main as pipeline

    pipeline(words)


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The arguments of a command, by the parser of whoever runs it."""
    if _is_training(_spelt(words)):
        from training.cli import build_parser as training

        return training().parse_args(_spelt(words))
    from pipeline.cli import build_parser as pipeline

    return pipeline().parse_args(words)


def _spelt(words: Sequence[str]) -> list[str]:
    """`whim evaluate detector` is `whim evaluate-detector`, and so with the regressor."""
    networks = [["evaluate", "detector"], ["evaluate", "regressor"]]
    return ["-".join(words[:2]), *words[2:]] if list(words[:2]) in networks else list(words)


def _is_training(words: Sequence[str]) -> bool:
    return bool(words) and words[0] in _TRAINING


if __name__ == "__main__":
    main()
