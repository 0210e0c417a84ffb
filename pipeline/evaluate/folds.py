"""Cross-fitting: labelled frames and clips of some videos are judged by a recipe whose networks never saw these videos."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Protocol, TypeVar

from pipeline.recipes import Recipe, find_recipe


class OfVideo(Protocol):
    """What belongs to a video, named by its path or '' for none."""

    @property
    def video(self) -> str: ...


Labelled = TypeVar("Labelled", bound=OfVideo)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fold:
    """A recipe, and the names of the videos that its networks never saw."""

    recipe: Recipe
    videos: frozenset[str]


def read_fold(recipe: str, listed: Path) -> Fold:
    """The fold of a recipe by name and of a list of videos, one a line, of which the file names count. Raises ValueError, OSError."""
    videos = frozenset(Path(line).name for line in listed.read_text().splitlines() if line.strip())
    if not videos:
        raise ValueError(f"{listed} lists no video: a fold needs the videos that its networks never saw, one a line")
    return Fold(recipe=find_recipe(recipe), videos=videos)


def by_recipe(labelled: Iterable[Labelled], recipe: Recipe, folds: Sequence[Fold]) -> list[tuple[Recipe, list[Labelled]]]:
    """Stretches of what is labelled, each with the recipe that judges it: the one fold's that lists its video, or `recipe` without folds.

    Raises ValueError for a video that no fold lists, or several.
    """

    def judge(one: Labelled) -> int:
        listing = [place for place, fold in enumerate(folds) if Path(one.video).name in fold.videos]
        if folds and len(listing) != 1:
            raise ValueError(f"{one.video or 'an image without a video'} is listed by {len(listing)} folds; each video belongs to one")
        return listing[0] if folds else -1

    return [(folds[place].recipe if folds else recipe, list(group)) for place, group in groupby(labelled, judge)]
