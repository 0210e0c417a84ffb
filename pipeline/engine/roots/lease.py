"""Who may write to a data folder of an object store: its driver holds a lease, an object that it writes anew while it lives.

The object is written on the condition that it is still the one last seen (`If-Match`), so that of two drivers one has it. Its age is told
by the store's clock alone. A driver that could not renew it in time counts it as lost by its own clock, no later than others do.
"""

import json
import logging
import threading
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from pipeline.engine.durable import StoreError, TakenError
from pipeline.engine.roots.objects import Meta, Objects, Tag

NAME = ".lock"
CLOCK = ".clock-"
"""Beginning of the name of an object that is written to hear what time it is, and removed."""

_log = logging.getLogger(__name__)

_RESOLUTION_S = 1.0
"""Of the times that stores tell."""


@dataclass(eq=False)
class Lease:
    """The right of this process to write, for `seconds` from each renewal."""

    objects: Objects
    hasty: Objects
    """The same, given up soon: a renewal that hangs comes too late."""
    holder: str
    """This process in words."""
    mirror: str
    """Name of this machine's mirror, of which one process at a time is the driver."""
    seconds: float
    token: str = field(default_factory=lambda: uuid.uuid4().hex)
    tag: Tag = field(default_factory=lambda: Tag(""))
    renewed_at: float = 0.0
    lost_to: str = ""
    stop: threading.Event = field(default_factory=threading.Event)
    thread: threading.Thread | None = None

    def take(self) -> None:
        """Take the lease and keep it. Raises StoreError that names a driver which lives."""
        seen: dict[str, str] = {}
        while True:
            start = _now()
            found = self.objects.read(NAME)
            told = _told(found)
            if told is None or self._is_free(told, found):
                with suppress(TakenError):
                    over = (found[1].etag, found[1].version) if found else ("",)
                    self.tag = self.objects.put_over(NAME, self._content(), *over)
                    self.renewed_at = start
                    break
                if self._is_mine(self.objects):  # the answer to a try was lost
                    break
                self.lost_to = ""
                continue
            assert found
            token, holder = str(told.get("token")), str(told.get("holder"))
            if seen.setdefault(token, found[1].etag) != found[1].etag:
                raise StoreError(f"{self.objects.address} is in use by {holder}; wait for it or stop it")
            if len(seen) == 1:
                _log.warning("%s was last held by %s: looking whether it lives", self.objects.address, holder)
            time.sleep(min(1.0, self.seconds / 10))
        self.thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self.thread.start()

    def _is_free(self, told: Mapping[str, Any], found: tuple[bytes, Meta] | None) -> bool:
        if not told.get("holder") or told.get("mirror") == self.mirror:  # we hold this mirror: whoever held it is dead
            return True
        assert found
        return _has_ended(self.objects, told, found[1])

    def _content(self, *, free: bool = False) -> bytes:
        told = {"holder": "" if free else self.holder, "mirror": self.mirror, "token": self.token, "lease_s": self.seconds}
        return json.dumps({**told, "written": uuid.uuid4().hex}).encode()  # each writing has an ETag of its own

    def _is_mine(self, objects: Objects) -> bool:
        """Whether the lease lies there with this token, of whichever try; takes over its tag."""
        start = _now()
        found = objects.read(NAME)
        told = _told(found)
        if found is None or told is None or told.get("token") != self.token or not told.get("holder"):
            self.lost_to = str((told or {}).get("holder") or "another driver")
            return False
        self.lost_to, self.tag = "", Tag(found[1].etag, found[1].version)
        self.renewed_at = max(self.renewed_at, start - _age_s(objects, found[1]) - _RESOLUTION_S)
        return True

    def _renew(self) -> None:
        wait_s = self.seconds / 4
        while not self.stop.wait(wait_s):
            start, wait_s = _now(), self.seconds / 4
            try:
                self.tag = self.hasty.put_over(NAME, self._content(), *self.tag)
                self.renewed_at = start
            except TakenError:
                with suppress(StoreError):
                    if not self._is_mine(self.hasty):
                        return
            except StoreError as error:
                _log.info("the lease of %s is not renewed yet: %s", self.objects.address, error)
                wait_s = self.seconds / 20

    def check(self) -> None:
        """Raise StoreError where another driver has the lease, or may have it."""
        if not self.lost_to and _now() < self.renewed_at + self.seconds:
            return
        to = self.lost_to or "it could not be renewed in time"
        raise StoreError(f"{self.objects.address}: this run no longer holds it ({to}) and has stopped; run again, it goes on")

    def release(self) -> None:
        """Let the next driver have it at once."""
        self.stop.set()
        if self.thread:
            self.thread.join()
        if not self.lost_to:
            with suppress(TakenError, StoreError):
                self.hasty.put_over(NAME, self._content(free=True), *self.tag)


def holder_of(objects: Objects) -> str:
    """Token of the driver that took the lease last and did not give it back; '' without one."""
    told = _told(objects.read(NAME)) or {}
    return str(told.get("token")) if told.get("holder") else ""


def is_held(objects: Objects) -> bool:
    """Whether some driver holds the lease; one whose age cannot be told, as by a key that may only read, counts as held."""
    found = objects.read(NAME)
    told = _told(found)
    if not (found and told and told.get("holder")):
        return False
    try:
        return not _has_ended(objects, told, found[1])
    except StoreError:
        return True


def _has_ended(objects: Objects, told: Mapping[str, Any], meta: Meta) -> bool:
    return _age_s(objects, meta) > float(told.get("lease_s", 0)) + _RESOLUTION_S


def _age_s(objects: Objects, meta: Meta) -> float:
    """How long ago an object was written, by the store's clock."""
    name = f"{CLOCK}{uuid.uuid4().hex}"
    objects.put_over(name, b"", None)
    now = objects.head(name)
    objects.delete(name)
    return (now.modified - meta.modified).total_seconds() if now else 0.0


def _told(found: tuple[bytes, Meta] | None) -> dict[str, Any] | None:
    """What a lease says; None without one, or with one that says nothing."""
    try:
        told = json.loads(found[0]) if found else None
    except ValueError:
        return None
    return told if isinstance(told, dict) else None


def _now() -> float:
    """Seconds, those among them that this machine slept."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
