"""A data folder as a whole: where it lies, which driver holds it, the word that tells it from others, and its small files.

<root>/.lock         locked by the driver that works here; says who that is
<root>/.folder       a word that only this folder holds
<root>/<name>.json   a small file of the run itself, with its digest
"""

import fcntl
import hashlib
import os
import re
import shlex
import socket
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from pipeline.engine.durable import ASIDE, StoreError, Writer, lock_file, mirror_of, room
from pipeline.engine.files.part import take_over
from stages.digest import CorruptFileError, refuse_odd, seal, unseal

if TYPE_CHECKING:
    from pipeline.engine.roots.mirror import Mirror


class DataFolder(Writer):
    """A data folder on a disk, or the mirror of one in an object store."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root).absolute()

    @property
    def mirror(self) -> "Mirror | None":
        """The mirror that this folder is of one in an object store; None for a folder of a disk."""
        return mirror_of(self.root)

    @property
    def name(self) -> str:
        """The data folder as a person names it: its path or its address."""
        return str(self.mirror or self.root)

    def shown(self, path: Path) -> str:
        """A file of the folder as a person names it: by its path, or below the address."""
        inside = self.mirror and path.is_relative_to(self.root)
        return f"{self.mirror}/{path.relative_to(self.root)}" if inside else str(path)

    def word(self, below: str = "") -> str:
        """The data folder, or a folder of it, as a word of a command: quoted for a shell, with all that another machine must be told."""
        address, question, options = (self.mirror.whole if self.mirror else str(self.root)).partition("?" if self.mirror else "\0")
        return shlex.quote(f"{address}/{below}".rstrip("/") + question + options)

    @property
    def is_new(self) -> bool:
        """Whether nothing was ever written there."""
        return not self.root.exists() if self.mirror is None else all(path.name == ".lock" for path in self.root.iterdir())

    def have(self, path: Path) -> None:
        """In a worker's mirror of an object store: ask for a file before it is read."""
        if (mirror := self.mirror) and mirror.asks:
            mirror.have(path)

    def size_of(self, video: Path) -> int | None:
        """Bytes of a video of this folder, wherever it lies; None where it is gone."""
        if (mirror := self.mirror) and video.is_relative_to(self.root) and (size := mirror.size_of(video)) is not None:
            return size
        return video.stat().st_size if video.is_file() else None

    def still_held(self) -> None:
        """Raise StoreError where this driver has lost the folder to another one."""
        if mirror := self.mirror:
            mirror.check()

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder for one driver. The kernel frees the lock when its holder dies, however it dies; in a store its lease ends."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            file = lock_file(self.root / ".lock")
        except OSError as error:
            why = "it is a file" if self.root.is_file() else error.strerror
            raise StoreError(f"cannot write to the data folder {self.root}: {why}; choose another with --data") from error
        with file:
            try:
                held = _hold(file)
            except OSError as error:
                raise StoreError(f"the data folder {self.root} cannot be locked: {error.strerror}; choose another with --data") from error
            if not held:
                file.seek(0)
                holder = file.read().decode().strip() or "another driver"
                raise StoreError(f"{self.name} is in use by {holder}; wait for it or stop it")
            with room(self.root), self.mirror.held() if self.mirror else nullcontext():
                file.truncate(0)
                file.write(f"pid {os.getpid()} on {socket.gethostname()}".encode())
                for leftover in self.root.rglob(".*.tmp"):
                    if ASIDE.fullmatch(leftover.name) and leftover.is_file():  # nothing of others
                        leftover.unlink(missing_ok=True)
                if self.mirror is None:
                    take_over(self.root)
                yield

    def is_the_one(self, token: str) -> bool:
        """Whether this is the folder that a token was taken of, as this machine sees it."""
        self.have(self.root / ".folder")
        try:
            refuse_odd(self.root / ".folder")
            return (self.root / ".folder").read_text().strip() == token
        except (OSError, CorruptFileError):
            return False

    def token(self) -> str:
        """A word that only this folder holds, by which a worker on another machine knows that it sees the same one."""
        path = self.root / ".folder"
        with suppress(OSError, CorruptFileError):
            return check_token(path)
        word = uuid.uuid4().hex
        word += hashlib.sha256(word.encode()).hexdigest()[:16]
        with self.aside(path) as temporary:
            temporary.write_text(word)
        return word

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        """Write a small file of the run itself, with its digest."""
        with self.aside(self.root / name) as temporary:
            temporary.write_text(seal(value))

    def read_json(self, name: str) -> dict[str, Any] | None:
        """The content of a small file of the run itself; None when there is none.

        Raises CorruptFileError that names a file which is not what was written.
        """
        try:
            return unseal(self.root / name)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def read_list(self, name: str, listed: str, /, **kinds: type) -> list[dict[str, Any]]:
        """The mappings that a small file lists under `listed`, each with values of these kinds; none when there is no file.

        Raises CorruptFileError that names a file which lists anything else.
        """
        entries = (self.read_json(name) or {}).get(listed, [])

        def fits(one: Any) -> bool:
            return isinstance(one, dict) and all(isinstance(one.get(field), kind) for field, kind in kinds.items())

        if isinstance(entries, list) and all(map(fits, entries)):
            return entries
        raise CorruptFileError(self.root / name, f"its {listed!r} are not what a run lists there; remove it, the next run writes it anew")


def _hold(file: IO[bytes]) -> bool:
    """Lock a file for this process alone, unless another holds it for longer than who feels for the lock (`whim status --watch`)."""
    for pause_s in (0.05, 0.1, 0.2, 0.0):
        with suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        time.sleep(pause_s)
    return False


def check_token(path: Path) -> str:
    """The word of a folder, whose end is a digest of its beginning; one of an earlier version has none. Raises CorruptFileError."""
    refuse_odd(path)
    content = path.read_bytes()
    word = content[:32]
    if content not in (word, word + hashlib.sha256(word).hexdigest()[:16].encode()) or not re.fullmatch(rb"[0-9a-f]{32}", word):
        raise CorruptFileError(path, "it is no word of a data folder")
    return content.decode()
