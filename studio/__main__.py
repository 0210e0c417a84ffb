"""Render labelled videos: `python -m studio --out DIR --num-videos 2 --seconds 6 --seed 0`."""

import argparse
from pathlib import Path

from studio.video import Film, make_videos


def main() -> None:
    """Read the arguments and render."""
    parser = argparse.ArgumentParser(prog="python -m studio", description="Render labelled videos of two hands, with exact truth.")
    parser.add_argument("--out", type=Path, required=True, help="folder for the videos, truths and labels.json")
    parser.add_argument("--num-videos", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--frames-per-second", type=float, default=25.0)
    parser.add_argument("--seed", type=int, default=0, help="of the first video; the others follow")
    given = parser.parse_args()
    film = Film(seed=given.seed, seconds=given.seconds, frames_per_second=given.frames_per_second)
    make_videos(given.out, given.num_videos, film)


if __name__ == "__main__":
    main()
