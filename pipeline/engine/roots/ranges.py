"""An object that is read as a file is, of which come only the bytes that are asked for."""

import io
from collections.abc import Callable


class Ranges(io.RawIOBase):
    """A file whose bytes are asked for by where they begin and end."""

    def __init__(self, size_bytes: int, ask: Callable[[int, int], bytes]) -> None:
        self.size_bytes, self.ask, self.at = size_bytes, ask, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.at, io.SEEK_END: self.size_bytes}[whence]
        return self.at

    def tell(self) -> int:
        return self.at

    def read(self, size: int = -1) -> bytes:
        start, end = self.at, self.size_bytes if size < 0 else min(self.at + size, self.size_bytes)
        self.at = max(start, end)
        return self.ask(start, end) if end > start else b""
