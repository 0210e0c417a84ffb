"""Checks that every file of a data folder is, bit for bit, what was written.

Parts, small files, pages, lists and each line of a log carry the digest of their content; a part is moreover encoded anew and compared
byte by byte, where the same pyarrow wrote it. A bundle is held against the digest of each of its parts: where one is corrupt the others
stand. Shards carry the sha256 of their file, which the index states too. Videos are held against
the sha256 that `download` took of them (in the note beside them, in their table, in every frame of the shards), the demo's own videos
against its `sums.json`. Where all that state a file's sha256 are damaged themselves, the file is named as one of which nobody can tell.

Not covered: `.lock`, which says nothing of the data, halves of downloads in `media/incoming`, whose whole is checked as it arrives, what
a kill left of the last line of a log, and what somebody else put into the folder.
"""

import io
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path

import pyarrow.parquet as pq

from fitting.files import sha256_of
from pipeline.engine.bundles.bundle import Bundle, Part, is_bundle, write_bundle, written_by
from pipeline.engine.bundles.compaction import Compaction
from pipeline.engine.files.corrupt import OF_PEOPLE, set_corrupt_aside
from pipeline.engine.files.data_folder import check_token
from pipeline.engine.files.part import read_sealed, write_part
from pipeline.engine.files.shard import check_shard
from pipeline.engine.orders import Receipt
from pipeline.engine.stated import SUMS, stated_in
from pipeline.engine.store import Store
from stages import tables
from stages.digest import HTML, UNREADABLE, CorruptFileError, check_text, is_sound_line, refuse_odd, unseal
from stages.shards import SPLITS
from stages.tables import Table
from stages.web.note import read_note

_SMALL_FILES = ("run.json", "left_out.json", "hashes.json", "truth_score.json", "index.json", "stats.json", SUMS)
_BESIDE = ("index.json", "stats.json", "README.md")
_TOLD = ("run.json", "removed.txt")
_RECEIPT = frozenset(one.name for one in fields(Receipt))


@dataclass(slots=True)
class Verdict:
    """What a check of a folder found; paths are relative to it."""

    num_sound: int = 0
    """Files that are what was written."""
    num_unsealed: int = 0
    """Of these, files of an earlier version, which carry no digest: they can be read, and no more is known of them."""
    corrupt: dict[str, str] = field(default_factory=dict)
    """Why a file is not what was written, or that it is gone."""
    unknown: dict[str, str] = field(default_factory=dict)
    """Why nobody can tell of a file: what states its sha256 is damaged."""
    foreign: list[str] = field(default_factory=list)
    """Files that are none of ours."""


def verify(root: Path) -> Verdict:
    """Check all files below a data folder. Raises FileNotFoundError where there is no data folder."""
    return verify_files(root, files_of(root))


def files_of(root: Path) -> list[Path]:
    """All files to check, those that are gone among them. Raises FileNotFoundError where there is no data folder."""
    store = Store(root)
    if not any((store.root / name).exists() for name in ("run.json", "shards/index.json", "index.json")):
        why = "it has neither run.json nor shards/index.json, nor is it one of shards" if store.root.is_dir() else "there is no such folder"
        raise FileNotFoundError(f"{store.name} is no data folder: {why}")
    return sorted({path for path in _files(store.root) if path.name != ".lock"} | stated_in(store).sha256.keys())


def verify_files(root: Path, files: Iterable[Path]) -> Verdict:
    """Check these files of a data folder."""
    store, verdict = Store(root), Verdict()
    stated = stated_in(store)
    for path in files:
        name = str(path.relative_to(store.root))
        try:
            kind = _check(path, stated.sha256.get(path))
        except FileNotFoundError:
            if _was_moved(store, path):
                continue
            verdict.corrupt[name] = "it is not there"
        except UNREADABLE as error:
            verdict.corrupt[name] = error.why if isinstance(error, CorruptFileError) else f"it cannot be read: {error}"
        else:
            if path in stated.corrupt:
                verdict.corrupt[name] = stated.corrupt[path]
            elif path in stated.unknown and kind != "sealed":
                verdict.unknown[name] = stated.unknown[path]
            elif kind == "foreign":
                verdict.foreign.append(name)
            else:
                verdict.num_sound += 1
                verdict.num_unsealed += kind == "unsealed"
    return verdict


def _was_moved(store: Store, path: Path) -> bool:
    """Whether a run beside the check has moved a part into a bundle meanwhile, or the parts of a bundle into another one."""
    if is_bundle(path):
        return True
    return path.suffix == ".parquet" and store.has(str(path.parent.relative_to(store.root)), path.stem)


def set_damaged_aside(root: Path, verdict: Verdict) -> list[Path]:
    """Take what `verify` found damaged out of the way of its successors, which the next run makes; kept as `*.corrupt`.

    Of a bundle's parts the sound ones stay, in another bundle.

    Left alone is what a person has to say again (`run.json`, `removed.txt`, verdicts and audits), and what every run writes anew.
    """
    store, aside = Store(root), list[Path]()
    with store.lock():
        for name in verdict.corrupt:
            path = store.root / name
            if path.is_file() and is_bundle(path):
                with store.bundles.sole():
                    Compaction(store).repair(path)
                aside.append(path)
            elif path.is_file() and name not in _TOLD and path.name not in _BESIDE and name.split("/")[0] not in OF_PEOPLE:
                set_corrupt_aside(store, path)
                aside.append(path)
    return aside


def _files(root: Path) -> Iterator[Path]:
    """All files below a folder, and folders that lie in place of one; links to folders are not followed."""
    for folder, folders, names in os.walk(root):
        yield from (Path(folder) / name for name in (*names, *(one for one in folders if _is_called_as_a_file(one))))


def _is_called_as_a_file(name: str) -> bool:
    return name == ".folder" or name.endswith((".parquet", ".json", ".jsonl", ".html"))


def _check(path: Path, sha256: str | None) -> str:
    """`sealed`, `unsealed` or `foreign`. Raises what `UNREADABLE` lists, CorruptFileError with the reason."""
    refuse_odd(path)
    if sha256 is not None:
        if sha256_of(path) != sha256:
            raise CorruptFileError(path, "its bytes are not those of its sha256")
        return "sealed"
    if path.suffix == ".parquet":
        if is_bundle(path):
            return _check_bundle(path)
        return "sealed" if path.parent.name in SPLITS and check_shard(path) else _check_part(path)
    if path.name.endswith(".info.json") and path.parent.name == "media":
        return "sealed" if "sha256" not in read_note(path) else "unsealed"
    if path.name in _SMALL_FILES or path.name.endswith(".error.json"):
        text = path.read_text()
        unseal(path)
        return "sealed" if text.endswith("\n") else "unsealed"
    if path.suffix == ".jsonl" and path.parent.name == "runs":
        return _check_log(path)
    if path.name == ".folder":
        return "sealed" if len(check_token(path)) > 32 else "unsealed"
    if path.name == "report.html":
        if check_text(path, *HTML):
            return "sealed"
        if not path.read_bytes().rstrip().endswith(b"</html>"):
            raise CorruptFileError(path, "it is cut short")
        return "unsealed"
    if path.suffix in (".txt", ".md"):
        return "sealed" if check_text(path, *(HTML if path.suffix == ".md" else ())) else "foreign"
    return "foreign"


def _check_part(path: Path) -> str:
    arrow = read_sealed(path)
    metadata = {key: value for key, value in (arrow.schema.metadata or {}).items() if key != b"ARROW:schema"}
    kind = getattr(tables, metadata.get(b"table", b"").decode(), None)
    if kind is None or not issubclass(kind, Table):
        return "foreign"
    if b"digest" not in metadata and metadata.keys() <= {b"table", b"schema_version", b"recipe"}:
        return "unsealed"
    footer = pq.read_metadata(path)
    writer, is_small = str(footer.created_by), footer.num_row_groups and footer.row_group(0).column(0).compression == "UNCOMPRESSED"
    if b"written_by" in metadata and metadata[b"written_by"].decode(errors="replace") != writer:
        raise CorruptFileError(path, "it names two libraries that wrote it")
    if writer != written_by():
        return "sealed"  # the digest is held; bytes of another library's encoding cannot be compared
    again = io.BytesIO()
    columns = [name for name in kind.schema().names if name in arrow.column_names]  # without those that are younger
    write_part(kind.from_arrow(arrow).to_arrow().select(columns).replace_schema_metadata(metadata), again, "none" if is_small else "zstd")
    if again.getvalue() != path.read_bytes():
        raise CorruptFileError(path, "its bytes are not those of its content")
    return "sealed"


def _check_bundle(path: Path) -> str:
    """A bundle is held against its parts' digests, each of them, and encoded anew."""
    bundle, parts, corrupt = Bundle.open(path), list[Part](), list[CorruptFileError]()
    for group in range(len(bundle.parts)):
        try:
            parts.append(bundle.part(group))
        except CorruptFileError as error:
            corrupt.append(error)
    if corrupt:
        raise CorruptFileError(path, f"{corrupt[0].why} ({len(parts)} of its {len(bundle.parts)} parts are sound)")
    if bundle.footer.created_by != bundle.written_by:
        raise CorruptFileError(path, "it names two libraries that wrote it")
    if bundle.written_by == written_by():
        again = io.BytesIO()
        write_bundle(parts, again, bundle.codec)
        if again.getvalue() != path.read_bytes():
            raise CorruptFileError(path, "its bytes are not those of its content")
    return "sealed" if all(part.digest for part in parts) else "unsealed"


def _check_log(path: Path) -> str:
    """A log has one JSON object a line; what a kill cut off is its last line."""
    *lines, rest = path.read_text().split("\n")
    for number, line in enumerate(lines, 1):
        if not is_sound_line(f"{line}\n", _RECEIPT):
            raise CorruptFileError(path, f"line {number} is no receipt")
    if _is_whole(rest):
        raise CorruptFileError(path, "its last line does not end")
    return "sealed" if lines and all('"sha256"' in line for line in lines) else "unsealed"


def _is_whole(rest: str) -> bool:
    """Whether what stands after the last end of a line begins with a whole receipt: it was written with its end, which is gone."""
    try:
        json.JSONDecoder().raw_decode(rest)
    except (ValueError, RecursionError):
        return False
    return True
