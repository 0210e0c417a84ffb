"""Decisions on hands as a person makes them: each names its hand as the tables have it, and joins the table of verdicts of its video."""

import numpy as np

from pipeline.engine.store import Store
from pipeline.engine.verdicts import read_verdicts, videos_with_verdicts
from stages.tables import Clips, Hands, Verdicts
from stages.verdicts import LOST, in_clip, same_hands, standing


def lost_verdicts(store: Store) -> Verdicts:
    """Standing verdicts whose hand no run finds any more."""
    lost = []
    for video in sorted(videos_with_verdicts(store)):
        held = standing(read_verdicts(store, video))
        found = np.zeros(len(held), bool)
        for clip in _clips(store, video).rows():
            here = np.isin(held.frame, in_clip(held, clip).frame)
            found[here] |= same_hands(_hands(store, str(clip.clip[0])), held.take(here)) != LOST
        lost.append(held.take(~found))
    return Verdicts.concat(lost)


def _clips(store: Store, video: str) -> Clips:
    try:
        return store.read(Clips, "clips", video)
    except FileNotFoundError:
        return Clips.empty()


def _hands(store: Store, clip: str) -> Hands:
    try:
        return store.read(Hands, "hands", clip)
    except FileNotFoundError:
        return Hands.empty()
