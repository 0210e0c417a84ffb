"""Asking the sites again whether videos are still offered: `whim refresh` lists what was taken down or made private."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from pipeline.engine.store import Store
from stages.download import Download, is_offered
from stages.stage import Reason
from stages.tables import Manifest
from stages.web.address import has_hidden, without_secrets


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


_LOST = (Reason.GONE, Reason.GEO_BLOCKED, Reason.LOGIN_REQUIRED)
"""What a site says of a video that it does not show any more. Any other answer may come from whoever stands between."""


def refresh(store: Store, manifest: Manifest, settings: Download) -> Iterator[Look]:
    """Ask for every video of a list that lies in the folder and came from the web, at the pace of downloads; nothing is fetched or written.

    The list as it is read, with passwords and tokens: the one that is stored has none, and a site refuses whoever comes without.
    """
    ask = is_offered(settings)
    for row in manifest.rows():
        video, source = str(row.video[0]), str(row.source[0])
        if source.startswith("/") or not store.has("videos", video):
            continue
        found = ask(row)
        if found is None:
            yield Look(video, without_secrets(source), Offer.OFFERED)
        else:
            offer = Offer.GONE if found.reason in _LOST and not has_hidden(source) else Offer.UNKNOWN
            yield Look(video, without_secrets(source), offer, str(found.reason), found.message)
