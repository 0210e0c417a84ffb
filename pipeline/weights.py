"""The commands `whim weights list`, `get` and `check`: the larger networks' files, fetched whole and verified, or not at all.

A download goes to `<file>.<version>.part`, where the version is the server's own (ETag, or date, and length): an interrupted one goes
on where it was, and never with the bytes of another file.
"""

import hashlib
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from enum import StrEnum
from http.client import HTTPException, HTTPMessage, HTTPResponse
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Column
from rich.table import Table as Grid

from fitting.files import sha256_of, weights_folder
from pipeline.engine.durable import room
from stages.detectors.weights import Weights, catalogue, find_weights

PAUSES_S = (1.0, 4.0, 15.0, 60.0)
"""Waits before trying again what may pass: a cut connection, a busy server."""
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
TIMEOUT_S = 60.0
CHUNK_BYTES = 1 << 20

OnBytes = Callable[[int, int], None]
"""Told after every chunk: bytes there are, bytes there will be (0: the server does not say)."""


class DownloadError(ValueError):
    """A file cannot be had from its address: says why, and what to do."""


class _Passing(Exception):
    """A fault that may be gone at the next try."""


class Standing(StrEnum):
    """How a file of the manifest stands on this machine."""

    ABSENT = "absent"
    INTACT = "intact"
    LOCKED = "locked now, at its first use"
    DAMAGED = "damaged or replaced"


def standing(row: Weights) -> Standing:
    """Read the whole file and compare it with what is known of it; nothing is known of a file put there by hand before its first use."""
    if not row.path.is_file():
        return Standing.ABSENT
    sha256, known = sha256_of(row.path), row.known_sha256()
    if not known:
        row.write_lock(sha256)
        return Standing.LOCKED
    return Standing.INTACT if sha256 == known else Standing.DAMAGED


def fetch(row: Weights, *, on_bytes: OnBytes = lambda _, __: None, pauses_s: Sequence[float] = PAUSES_S) -> Path:
    """Download a file, verify it by its hash or lock it at this first use, and put it in its place; whole or not at all.

    Raises DownloadError when the server has not got it, keeps failing, or gives another file than the manifest's; StoreError when the
    disk is full.
    """
    from filelock import FileLock

    row.path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(row.path.parent / ".lock"), room(row.path.parent):
        for pause_s in [*pauses_s, None]:
            try:
                part = _receive(row, on_bytes)
                break
            except (_Passing, HTTPException, ConnectionError, TimeoutError) as error:
                if pause_s is None:
                    raise DownloadError(f"{row.name}: {error} at {row.url}, {len(pauses_s) + 1} times; run again, it goes on") from error
                time.sleep(pause_s)
        sha256, known = sha256_of(part), row.known_sha256()
        if known and sha256 != known:
            part.unlink()
            raise DownloadError(f"{row.name}: {row.url} gives another file than the one known (sha256 {sha256}, wanted {known})")
        if not known:
            row.write_lock(sha256)
        part.replace(row.path)
        for stale in row.path.parent.glob(f"{row.path.name}.*.part"):
            stale.unlink()
    return row.path


def _receive(row: Weights, on_bytes: OnBytes) -> Path:
    """Bring the part to its full length, going on where it ends when the server can."""
    with _open(row, start=0) as answer:
        if answer.headers.get_content_type() == "text/html":
            raise DownloadError(f"{row.name}: {row.url} answers with a web page; get it in a browser and put it at {row.path}")
        part, total = _part(row, answer.headers), int(answer.headers.get("Content-Length") or 0)
        done = part.stat().st_size if part.exists() else 0
        if not done or done > total:
            _write(answer, part, "wb", total, on_bytes)
            return part
    if done < total:
        with _open(row, start=done) as answer:
            _write(answer, part, "ab" if answer.status == 206 else "wb", total, on_bytes)
    return part


def _open(row: Weights, *, start: int) -> HTTPResponse:
    request = urllib.request.Request(row.url, headers={"User-Agent": "whim-builder"} | ({"Range": f"bytes={start}-"} if start else {}))
    try:
        return urllib.request.urlopen(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code in PASSING:
            raise _Passing(f"HTTP {error.code}") from error
        raise DownloadError(f"{row.name}: HTTP {error.code} at {row.url}. {row.how_to_get()}") from error
    except urllib.error.URLError as error:
        raise _Passing(str(error.reason)) from error


def _part(row: Weights, headers: HTTPMessage) -> Path:
    """Where this version of the file is collected. Of a server that names no version nothing is kept, unless the hash is known."""
    version = headers.get("ETag") or headers.get("Last-Modified")
    digest = hashlib.sha256(f"{version} {headers.get('Content-Length')}".encode()).hexdigest()[:12]
    part = row.path.with_name(f"{row.path.name}.{digest}.part")
    if version is None and not row.known_sha256():
        part.unlink(missing_ok=True)
    return part


def _write(answer: HTTPResponse, part: Path, mode: str, total: int, on_bytes: OnBytes) -> None:
    with part.open(mode) as file:
        while chunk := answer.read(CHUNK_BYTES):
            file.write(chunk)
            on_bytes(file.tell(), total)
        if total and file.tell() != total:
            raise _Passing(f"connection cut after {file.tell():,} of {total:,} bytes")


def list_weights(console: Console) -> None:
    """Every network: what it is, how large, under which licence, and whether it is here."""
    grid = Grid(Column("name", no_wrap=True), "network", "MB", "licence", "here", title=escape(f"weights in {weights_folder()}"))
    for row in catalogue().values():
        here = "yes" if row.path.is_file() else ("by hand" if row.by_hand else "no")
        grid.add_row(row.name, row.network, str(row.size_mb or "?"), row.licence, here)
    console.print(grid)


def get_weights(names: Sequence[str], console: Console, *, agree: bool = False) -> int:
    """Fetch the named files, or all that bind nobody to anything; the number that could not be had.

    Raises ValueError for a name that is not in the manifest.
    """
    rows = [find_weights(name) for name in names] or [row for row in catalogue().values() if not (row.agreement or row.by_hand)]
    num_missing = 0
    for row in rows:
        if row.path.is_file():
            console.print(f"{row.name}: at {row.path}", markup=False)
        elif row.by_hand or (row.agreement and not agree):
            num_missing += 1
            console.print(f"{row.name}: {row.how_to_get()}", markup=False)
        else:
            num_missing += _fetch_shown(row, console)
    return num_missing


def _fetch_shown(row: Weights, console: Console) -> int:
    columns = (*Progress.get_default_columns()[:1], BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    try:
        with Progress(*columns, console=console) as progress:
            bar = progress.add_task(row.name, total=None)
            fetch(row, on_bytes=lambda done, total: progress.update(bar, completed=done, total=total or None))
    except DownloadError as error:
        console.print(str(error), style="red", markup=False)
        return 1
    console.print(f"{row.name}: {row.path}, sha256 {row.known_sha256()}", markup=False)
    return 0


def check_weights(names: Sequence[str], console: Console) -> int:
    """Read every file that is here and compare it with its hash; the number of damaged ones."""
    num_damaged = 0
    for row in [find_weights(name) for name in names] or catalogue().values():
        found = standing(row)
        num_damaged += found is Standing.DAMAGED
        advice = f": remove it, and get it again; if it was replaced on purpose, remove {row.lock}" if found is Standing.DAMAGED else ""
        console.print(f"{row.name}: {found}{advice}", markup=False)
    return num_damaged
