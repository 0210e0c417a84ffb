"""Asking the sites again whether videos are still offered: `whim refresh` lists what was taken down or made private."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from pipeline.engine.store import Store
from stages.download import Download, is_offered
from stages.tables import Manifest


class Offer(StrEnum):
    """What became of a video."""

    OFFERED = "offered"
    GONE = "gone"
    """Removed, private, behind an account or closed to this country: whoever showed it does not show it any more, or not to all."""
    UNKNOWN = "unknown"
    """The site did not say: it refuses this address for a while, or there was a fault."""


@dataclass(frozen=True, slots=True)
class Look:
    """One video, asked for again."""

    video: str
    source: str
    offer: Offer
    reason: str = ""
    message: str = ""


def refresh(store: Store, settings: Download) -> Iterator[Look]:
    """Ask for every video that lies in the folder and came from the web, at the pace of downloads; nothing is fetched, nothing written."""
    manifest = store.read(Manifest, "", "manifest")
    ask = is_offered(settings)
    for row in manifest.rows():
        video, source = str(row.video[0]), str(row.source[0])
        if source.startswith("/") or not store.has("videos", video):
            continue
        found = ask(row)
        if found is None:
            yield Look(video, source, Offer.OFFERED)
        else:
            yield Look(video, source, Offer.GONE if found.permanent else Offer.UNKNOWN, str(found.reason), found.message)
