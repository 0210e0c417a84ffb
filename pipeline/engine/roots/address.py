"""Addresses of data folders in an object store: s3://bucket/prefix, gs://bucket/prefix."""

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit

from stages.errors import UserError

_SCHEMES = ("s3", "gs")
_OPTIONS = ("scheme", "endpoint_override", "region")
"""What may follow a `?`, named as pyarrow names it, so that one address serves runs and trainings."""


@dataclass(frozen=True, slots=True)
class Address:
    """A prefix of a bucket."""

    scheme: str
    bucket: str
    prefix: str
    options: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, text: str) -> "Address":
        """Read an address. Raises UserError for one that names no bucket, or holds a key."""
        parts = urlsplit(text)
        options = tuple(sorted(parse_qsl(parts.query, keep_blank_values=True)))
        if parts.username or parts.password or "@" in parts.netloc:
            raise UserError(f"an address holds no key, it is written down in many places: set AWS_ACCESS_KEY_ID for {parts.hostname}")
        odd = next((name for name, _ in options if name not in _OPTIONS), None)
        if odd:
            raise UserError(f"{odd!r} is no option of an address: it takes {', '.join(_OPTIONS)}")
        blank = next((name for name, value in options if not value), None)
        if blank:
            raise UserError(f"{blank!r} of an address has no value: leave it out, or say {blank}=VALUE")
        if ":" in parts.netloc:
            host = parts.netloc
            raise UserError(
                f"{host} is a server, no bucket: {parts.scheme}://BUCKET/FOLDER?endpoint_override={host}&scheme=http (or https)"
            )
        if "#" in text:
            raise UserError(f"no data folder of an object store can have a # in its name: {text.partition('?')[0]}")
        prefix = parts.path.strip("/")
        if not parts.netloc or not prefix or any(piece in ("", ".", "..") for piece in prefix.split("/")):
            raise UserError(f"{parts.scheme}://{parts.netloc}{parts.path} is no data folder: name one as {parts.scheme}://BUCKET/FOLDER")
        return cls(parts.scheme, parts.netloc, prefix, options)

    def __str__(self) -> str:
        """In words: without options."""
        return f"{self.scheme}://{self.bucket}/{self.prefix}"

    @property
    def whole(self) -> str:
        """With its options, as another process needs it."""
        return str(self) + (f"?{urlencode(self.options)}" if self.options else "")

    @property
    def endpoint(self) -> str:
        """Where an S3 that is not Amazon's answers; '' for Amazon's and for Google's."""
        told = dict(self.options)
        if told.get("endpoint_override"):
            return f"{told.get('scheme', 'https')}://{told['endpoint_override']}"
        return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "") if self.scheme == "s3" else ""

    @property
    def digest(self) -> str:
        """A name of the mirror's folder."""
        return hashlib.sha256(f"{self} {self.endpoint}".encode()).hexdigest()[:16]


def is_address(text: str | Path) -> bool:
    """Whether a data folder is named by an address of an object store."""
    return re.match(rf"({'|'.join(_SCHEMES)})://", str(text), re.IGNORECASE) is not None
