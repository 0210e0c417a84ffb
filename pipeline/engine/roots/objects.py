"""What is asked of an object store, tried again where that can help; what cannot succeed is told in one line.

The store's own client (object_store, by obstore) tries a request again that failed on its way. What fails as a whole, a body that was
cut off among them, is tried again here, after waits that double and vary by chance.
"""

import logging
import os
import random
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pipeline.engine.durable import StoreError, TakenError
from pipeline.engine.roots.address import Address

T = TypeVar("T")

_log = logging.getLogger(__name__)

PIECE = 16 << 20
"""Bytes of one request: the limit on its time holds for all of its body."""

_KEY = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (GOOGLE_APPLICATION_CREDENTIALS for gs://) to one that may read and write there"
_EXPIRED = "the key has expired: renew it and run again, it goes on"
_UNKNOWN = f"the store does not know this key: {_KEY}"
_REGION = "the bucket lies in another region: set AWS_REGION to it"

_ADVICE: Mapping[str, str] = {
    "NoSuchBucket": "there is no such bucket: make it, or mend its name in --data",
    "InvalidBucketName": "no bucket can be called so: mend its name in --data",
    "ExpiredToken": _EXPIRED,
    "ExpiredTokenException": _EXPIRED,
    "TokenRefreshRequired": _EXPIRED,
    "RequestExpired": _EXPIRED,
    "InvalidAccessKeyId": _UNKNOWN,
    "InvalidToken": _UNKNOWN,
    "SignatureDoesNotMatch": _UNKNOWN,
    "AuthFailure": _UNKNOWN,
    "PermanentRedirect": _REGION,
    "AuthorizationHeaderMalformed": _REGION,
    "RequestTimeTooSkewed": "this machine's clock is wrong: set it",
    "NotImplemented": "the store knows no conditional writes, by which one driver keeps another out: use one that does",
}
"""What a person can do about a refusal, by the store's code for it."""

_PASSING = ("RequestTimeout", "IncompleteBody", "BadDigest")
"""Codes of status 400 for a body that came late, in part or damaged: the request is made again."""

_DENIED = "this key has no right to {}: grant it reading, writing and deleting below the prefix, and listing of the bucket"


_MOST_REPLACED = 5
"""How often a large object is begun anew that was replaced while it came."""


class Tag(NamedTuple):
    """ETag and version of an object, by which it is told from those that lay in its place."""

    etag: str
    version: str = ""
    """Google's generation, by which it compares where S3 does by ETag."""


class Meta(NamedTuple):
    """What a store says of an object."""

    etag: str
    size_bytes: int
    modified: datetime
    version: str = ""
    """Version of the object as in `Tag`; '' in a listing, which does not say it."""


@dataclass(eq=False)
class Objects:
    """The objects below an address, by their names under it."""

    address: Address
    timeout_s: float = 60.0
    """A request that takes longer is made again."""
    tries: int = 10
    """How often a request is made that fails by what may pass: ten times in about a minute."""
    first_wait_s: float = 0.2
    longest_wait_s: float = 10.0
    pause: Callable[[float], None] = field(default=time.sleep, repr=False)

    @cached_property
    def store(self) -> Any:
        """The client, which tries a request again by itself."""
        return self._client(retries=3)

    @cached_property
    def hasty_store(self) -> Any:
        """A client that does not: whether the lease is held is asked before each try to write."""
        return self._client(retries=0)

    def _client(self, retries: int) -> Any:
        from obstore.store import GCSStore, S3Store

        endpoint = self.address.endpoint
        client: dict[str, Any] = {"timeout": timedelta(seconds=self.timeout_s), "connect_timeout": timedelta(seconds=10)}
        if endpoint.startswith("http://"):
            client["allow_http"] = True
        retry: Any = {"max_retries": retries, "retry_timeout": timedelta(seconds=2 * self.timeout_s)}
        given: dict[str, Any] = {"prefix": self.address.prefix, "client_options": client, "retry_config": retry}
        if self.address.scheme == "gs":
            return GCSStore(self.address.bucket, **given)
        region = dict(self.address.options).get("region") or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        if endpoint:
            given["endpoint"] = endpoint
        return S3Store(self.address.bucket, region=region or "us-east-1", **given, **_own_keys())

    def listed(self, below: str = "") -> dict[str, Meta]:
        """All objects, or those below a folder, by name; one whose name would lead elsewhere as a path is refused.

        The empty objects are left out by which consoles show folders.
        """
        import obstore

        def ask() -> dict[str, Meta]:
            found = {}
            for batch in obstore.list(self.store, below or None):
                found.update({one["path"]: _meta(one) for one in batch})
            return found

        found = self._trying("list", below, ask)
        folders = {"", *(name[:end] for name in found for end, letter in enumerate(name) if letter == "/")}
        return {
            name: meta for name, meta in found.items() if meta.size_bytes or not (name in folders or "." not in name.rpartition("/")[2])
        }

    def head(self, name: str) -> Meta | None:
        """What the store says of an object; None without one."""
        import obstore

        try:
            return self._trying("read", name, lambda: _meta(obstore.head(self.store, name)))
        except FileNotFoundError:
            return None

    def read(self, name: str) -> tuple[bytes, Meta] | None:
        """The content of a small object; None without one."""
        import obstore

        def ask() -> tuple[bytes, Meta]:
            answer = obstore.get(self.store, name)
            return bytes(answer.bytes()), _meta(answer.meta)

        try:
            return self._trying("read", name, ask)
        except FileNotFoundError:
            return None

    def get(self, name: str, to: Path, unless: str = "") -> Meta | None:
        """Write an object into a file; None where it is still the one of the ETag `unless`. Raises FileNotFoundError without one."""
        import obstore
        from obstore.exceptions import NotModifiedError, PreconditionError

        def ask() -> Meta | None:
            try:
                answer = obstore.get(self.store, name, options={"if_none_match": unless} if unless else None)
            except NotModifiedError:
                return None
            meta = _meta(answer.meta)
            with to.open("wb") as file:
                if meta.size_bytes <= PIECE:
                    file.write(answer.bytes())
                else:
                    for start in range(0, meta.size_bytes, PIECE):
                        span = (start, min(start + PIECE, meta.size_bytes))
                        file.write(self._piece(name, span, meta.etag))
                if file.tell() != meta.size_bytes:
                    raise ConnectionError(f"{file.tell()} of {meta.size_bytes} bytes came")
            return meta

        for _ in range(_MOST_REPLACED):
            with suppress(PreconditionError):  # it was replaced between two pieces
                return self._trying("read", name, ask)
        raise StoreError(f"{self.address}: {name} is replaced again and again while it is read: run again once nobody writes it")

    def span(self, name: str, start: int, end: int, etag: str) -> bytes:
        """Bytes of the object that has an ETag. Raises FileNotFoundError where that is another one, or there is none."""
        from obstore.exceptions import PreconditionError

        try:
            return b"".join(self._piece(name, (at, min(at + PIECE, end)), etag) for at in range(start, end, PIECE))
        except PreconditionError as error:
            raise FileNotFoundError(f"{self.address}: {name} was replaced while it was read") from error

    def _piece(self, name: str, span: tuple[int, int], etag: str) -> Any:
        import obstore

        return self._trying("read", name, lambda: obstore.get(self.store, name, options={"range": span, "if_match": etag}).bytes())

    def put(self, name: str, file: Path, check: Callable[[], None] | None = None) -> Tag:
        """Write a file as an object, whole or not at all. `check` is called before each try, and raises where there is to be none."""
        import obstore

        size = file.stat().st_size
        content: Any = file.read_bytes() if size <= PIECE else file
        options: dict[str, Any] = {"use_multipart": size > PIECE, "chunk_size": PIECE, "max_concurrency": 4}
        store = self.hasty_store if size <= PIECE else self.store
        return self._trying("write", name, lambda: _tag(obstore.put(store, name, content, **options)), check)

    def put_over(self, name: str, content: bytes, etag: str | None, version: str = "", check: Callable[[], None] | None = None) -> Tag:
        """Write a small object in the place of the one of an ETag and version, of none where that is '', of any where it is None.

        `check` is called before each try, and raises where there is to be none. Raises TakenError where another one lies
        there, or the answer to an earlier try was lost.
        """
        import obstore
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        mode: Any = {"e_tag": etag} | ({"version": version} if version else {}) if etag else "overwrite" if etag is None else "create"
        try:
            return self._trying(
                "write", name, lambda: _tag(obstore.put(self.hasty_store, name, content, mode=mode, use_multipart=False)), check
            )
        except (AlreadyExistsError, PreconditionError, FileNotFoundError) as error:
            raise TakenError(name) from error

    def delete(self, *names: str, check: Callable[[], None] | None = None) -> None:
        """Remove objects; nothing where there are none. `check` is called before each try, and raises where there is to be none."""
        import obstore

        try:
            self._trying("delete", " ".join(names[:2]), lambda: obstore.delete(self.hasty_store, list(names)), check)
        except FileNotFoundError:  # Google's store says so of each, and leaves the others
            for name in names if len(names) > 1 else ():
                self.delete(name, check=check)

    def _trying(self, doing: str, name: str, ask: Callable[[], T], check: Callable[[], None] | None = None) -> T:
        """What the store answers. Raises StoreError in one line, and what its caller reads: FileNotFoundError, of conditions obstore's."""
        from obstore.exceptions import AlreadyExistsError, NotModifiedError, PreconditionError

        for attempt in range(1, self.tries + 1):
            if check:
                check()
            try:
                return ask()
            except (AlreadyExistsError, NotModifiedError, PreconditionError, StoreError):
                raise
            except FileNotFoundError as error:
                if "NoSuchBucket" in str(error):
                    raise StoreError(f"{self.address}: {_ADVICE['NoSuchBucket']}") from None
                raise
            except Exception as error:
                if isinstance(error, OSError) and error.errno is not None:  # of a file here
                    raise
                advice = _advice(error, doing)
                if advice:
                    raise StoreError(f"{self.address}: {advice}") from None
                if attempt == self.tries:
                    raise StoreError(f"{self.address} does not answer ({_brief(error)}): nothing is lost, run again, it goes on") from None
                _log.info("%s: %s of %s failed, tried again: %s", self.address, doing, name, _brief(error))
                self.pause(min(self.first_wait_s * 2 ** (attempt - 1), self.longest_wait_s) * random.uniform(0.5, 1.5))
        raise AssertionError("the last try has ended")


def _own_keys() -> dict[str, Any]:
    """Keys of a profile of the AWS command line, where the environment names none and boto3 can read it."""
    named = "AWS_PROFILE" in os.environ or (Path.home() / ".aws" / "credentials").is_file()
    if "AWS_ACCESS_KEY_ID" in os.environ or not named:
        return {}
    try:
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ImportError:
        raise StoreError("the keys of a profile are read by boto3: pip install boto3, or set AWS_ACCESS_KEY_ID") from None
    return {"credential_provider": Boto3CredentialProvider()}


def _meta(told: Any) -> Meta:
    return Meta(str(told["e_tag"]), int(told["size"]), told["last_modified"], told.get("version") or "")


def _tag(told: Any) -> Tag:
    return Tag(str(told["e_tag"]), told.get("version") or "")


def _advice(error: Exception, doing: str) -> str:
    """What a person can do about an error; '' for one that may pass."""
    from obstore.exceptions import PermissionDeniedError, UnauthenticatedError

    text = str(error)
    code = next(iter(re.findall(r"<Code>(\w+)</Code>", text)), "")
    if code in _ADVICE:
        return _ADVICE[code]
    if re.search(r"token .{0,40}expired|expired.{0,20}token", text, re.IGNORECASE):
        return _EXPIRED
    if isinstance(error, PermissionDeniedError) or code in ("AccessDenied", "AllAccessDisabled"):
        return _DENIED.format(doing)
    if isinstance(error, UnauthenticatedError):
        return _UNKNOWN
    if re.search(r"169\.254\.169\.254|metadata\.google|credential", text, re.IGNORECASE):
        return f"there is no key here: {_KEY}"
    odd = re.search(r'Error parsing Path "([^"]*)"', text)
    if odd:
        return f"an object is called {odd[1][-100:]!r}, which no file can be: remove it"
    status = re.search(r"status code: (4\d\d)", text)
    if status and status[1] not in ("408", "429") and code not in _PASSING:
        return f"it refuses to {doing} ({code or status[1]})"
    return ""


def _brief(error: Exception) -> str:
    """An error of the client in a few words: without addresses of requests, answers, and what only its authors read."""
    text = str(error).partition("Debug source")[0].partition("<?xml")[0]
    status = re.search(r"status code: (\d+ [\w ]+)", text)
    return status[1].strip() if status else " ".join(text.rsplit(" - ", 1)[-1].split())[:150] or type(error).__name__
