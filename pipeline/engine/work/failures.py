"""Failures of items: what is recorded of an exception, and how often a part was tried."""

from collections.abc import Mapping
from typing import Any

from pipeline.engine.store import ErrorRecord, Store
from pipeline.engine.verdicts import DecidedMeanwhileError
from stages.cameras.said import CameraError
from stages.digest import CorruptFileError
from stages.stage import Failure, MissingVideoError, Reason


class OtherWeights(Exception):
    """A machine holds other model files than the ones that a part is ordered to be made by."""

    def __init__(self, here: Mapping[str, str], ordered: Mapping[str, str], host: str) -> None:
        name = next(name for name in sorted(here.keys() | ordered.keys()) if here.get(name) != ordered.get(name))
        mine, theirs = ((sha or "no such file")[:12] for sha in (here.get(name), ordered.get(name)))
        mend = "copy the weights folder there (WHIM_WEIGHTS)"
        super().__init__(f"model file {name} is {mine} on {host} and {theirs} where the run was started: {mend}")


_REASONS: Mapping[type[Exception], Reason] = {
    CorruptFileError: Reason.CORRUPT,
    CameraError: Reason.CAMERA,
    MissingVideoError: Reason.FILE_MISSING,
    DecidedMeanwhileError: Reason.DECIDED,
}


def failure_of(error: Exception) -> Failure:
    """What is recorded of an exception: the next run tries again, but for a camera that is said wrongly."""
    reason = next((reason for kind, reason in _REASONS.items() if isinstance(error, kind)), Reason.EXCEPTION)
    speaks_for_itself = isinstance(error, (*_REASONS, OtherWeights))
    return Failure(reason, str(error) if speaks_for_itself else f"{type(error).__name__}: {error}", permanent=reason is Reason.CAMERA)


def record_failure(
    store: Store, table: str, key: str, recipe: Mapping[str, Any], failure: Failure, trace: str = "", where: str = ""
) -> None:
    """Write the error file of a part, counting the attempts made under the same fingerprint; `where`: the `Place` in words."""
    fingerprint = str(recipe["fingerprint"])
    before = store.error(table, key)
    attempts = before.attempts + 1 if before and before.fingerprint == fingerprint else 1
    store.fail(table, key, ErrorRecord(fingerprint, str(failure.reason), failure.message, failure.permanent, attempts, trace, where))
