"""Digests that files of ours carry, so that a flipped bit is found: of a table, a small JSON file, a line of a log, a text."""

import hashlib
import json
import os
import re
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stages.tables import flattened

_FIXED_LIST, _STRUCT = pa.list_(pa.int8(), 1).id, pa.struct([]).id
_LISTS, _TEXTS = (pa.list_(pa.int8()).id, pa.large_list(pa.int8()).id), (pa.string().id, pa.binary().id)

_LARGEST_JSON_CHARACTERS = 256 << 20

HTML = ("<!-- ", " -->")
"""Marks around a comment of a page."""


UNREADABLE = (pa.ArrowException, OSError, MemoryError, ValueError, LookupError, TypeError, OverflowError)
"""What pyarrow was seen to raise over damaged files."""


class CorruptFileError(ValueError):
    """A file of ours is not what was written."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(path, why)
        self.path, self.why = path, why

    def __str__(self) -> str:
        return f"{self.path} is corrupt: {self.why}"


def refuse_odd(path: Path) -> os.stat_result:
    """Raise CorruptFileError where something else lies than a file of the disk: a pipe is waited for, a device never ends.

    Returns what the disk says of the file. Raises FileNotFoundError, NotADirectoryError where a file lies in place of its folder.
    """
    try:
        told = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        raise CorruptFileError(path, f"it cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(told.st_mode):
        raise CorruptFileError(path, "a folder lies in its place" if stat.S_ISDIR(told.st_mode) else "it is no file of the disk")
    return told


def fingerprint_of(recipe: Mapping[str, Any]) -> str:
    """sha256 of everything that a part is made from."""
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()


def digest_of(table: pa.Table) -> str:
    """sha256 of a table's columns, names and values, and of its metadata but for the digest itself; chunks and encodings do not count."""
    running = _begun(table.column_names, table.schema.metadata)
    for column in table.columns:
        _feed(running, column.chunk(0) if column.num_chunks == 1 else column.combine_chunks())
    return running.hexdigest()


def digest_of_stream(schema: pa.Schema, num_rows: int, stream: Callable[[str], Iterable[pa.Array]]) -> str:
    """`digest_of` a table of numbers and texts too large to be held: `stream` gives a column piece by piece, as often as it is asked."""
    running = _begun(schema.names, schema.metadata)
    for field in schema:
        running.update(num_rows.to_bytes(8, "little"))
        if field.type.id in _TEXTS:  # lengths come first
            running.update(num_rows.to_bytes(8, "little"))
            for piece in stream(field.name):
                running.update(np.diff(_places(piece)).tobytes())
        for piece in stream(field.name):
            if field.type.id in _TEXTS:
                running.update(text_of(piece))
            else:
                running.update(np.ascontiguousarray(piece.to_numpy(zero_copy_only=False)).data.cast("B"))
    return running.hexdigest()


def _begun(names: Sequence[str], metadata: Mapping[bytes, bytes] | None) -> Any:
    stated = {key: value for key, value in (metadata or {}).items() if key in (b"table", b"schema_version")}
    return hashlib.sha256(repr((list(names), sorted(stated.items()))).encode())


def _places(texts: pa.Array) -> np.ndarray:
    """Where each text begins in the bytes of all of them, and where the last one ends."""
    if not len(texts):
        return np.zeros(1, np.int32)
    return np.frombuffer(texts.buffers()[1], np.int32)[texts.offset : texts.offset + len(texts) + 1]


def text_of(texts: pa.Array) -> memoryview:
    """All texts of an array one after another, without a copy."""
    places, data = _places(texts), texts.buffers()[2]
    return memoryview(b"" if data is None else data)[places[0] : places[-1]]


def _feed(running: Any, array: pa.Array) -> None:
    running.update(len(array).to_bytes(8, "little"))
    if array.null_count:
        running.update(np.packbits(array.is_valid().to_numpy(zero_copy_only=False)).tobytes())
    kind = array.type.id
    if kind == _FIXED_LIST:
        _feed(running, flattened(array))
    elif kind == _STRUCT:
        for child in array.flatten():
            _feed(running, child)
    elif kind in _LISTS:
        _feed(running, array.value_lengths())
        _feed(running, array.flatten())
    elif kind in _TEXTS:
        if array.null_count:
            _feed(running, pc.binary_length(array))
        else:
            running.update(len(array).to_bytes(8, "little") + np.diff(_places(array)).tobytes())
        running.update(text_of(array))
    else:
        running.update(np.ascontiguousarray(array.to_numpy(zero_copy_only=False)).data.cast("B"))


def seal(value: Mapping[str, Any]) -> str:
    """A mapping as the text of a small JSON file that carries its own sha256."""
    assert "sha256" not in value, "the name of the digest itself"
    plain = json.loads(json.dumps(value))  # as it is read back: keys are text
    return json.dumps({**plain, "sha256": _digest_of_json(plain)}, indent=1, sort_keys=True) + "\n"


def unseal(path: Path) -> dict[str, Any]:
    """The mapping of a small JSON file, held against its sha256; files of an earlier version carry none.

    Raises CorruptFileError that names the file, FileNotFoundError.
    """
    refuse_odd(path)
    try:
        with path.open() as file:
            text = file.read(_LARGEST_JSON_CHARACTERS)
        value = json.loads(text)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise CorruptFileError(path, f"no JSON can be read from it ({error})") from error
    if not isinstance(value, dict):
        raise CorruptFileError(path, "it holds no JSON object")
    is_sealed = "sha256" in value or text.endswith("\n")  # two marks: no single flip makes a sealed file one of an earlier version
    value.pop("sha256", None)
    if is_sealed and text != seal(value):
        raise CorruptFileError(path, "its content is not what its sha256 says")
    return value


def seal_line(value: Mapping[str, Any]) -> str:
    """A mapping as one line of a log, with its own sha256."""
    assert "sha256" not in value, "the name of the digest itself"
    plain = json.loads(json.dumps(value))
    return json.dumps({**plain, "sha256": _digest_of_json(plain)}) + "\n"


def is_sound_line(line: str, unsealed: frozenset[str]) -> bool:
    """Whether a line of a log is what was written; one of an earlier version has no digest, and no other names than `unsealed`."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return False
    if not isinstance(value, dict):
        return False
    if "sha256" not in value:
        return value.keys() <= unsealed
    del value["sha256"]
    return line == seal_line(value)


def seal_text(text: str, opening: str = "# ", closing: str = "") -> str:
    """A text with a last line of its sha256, twice, between the marks of a comment."""
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f"{text}{opening}sha256 {digest} {digest} sha256{closing}\n"


def check_text(path: Path, opening: str = "# ", closing: str = "") -> bool:
    """Hold a text against the sha256 in its last line; False for one that has none. Raises CorruptFileError."""
    refuse_odd(path)
    content = path.read_bytes()
    if not re.search(rb"sha256 [0-9a-f]{64}|[0-9a-f]{64} sha256", content[-200:]):
        return False
    size = len(seal_text("", opening, closing))
    if content != seal_text(content[:-size].decode(errors="replace"), opening, closing).encode():
        raise CorruptFileError(path, "its content is not what its last line says")
    return True


def _digest_of_json(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
