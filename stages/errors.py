"""Errors that a person can mend, and the one line that every command says of them. Imports the standard library only."""

import argparse
import errno
import json
import math
import tomllib
from collections.abc import Callable

_PLACES = {
    errno.ENOSPC: "no room left on the disk of {}: make room and run again, it goes on",
    errno.EDQUOT: "the quota of the disk of {} is used up: make room and run again, it goes on",
    errno.EFBIG: "{} is larger than a file may be here (`ulimit -f`, or the file system): raise that and run again, it goes on",
    errno.EIO: "the disk of {} fails (input/output error): look after it, then run again, it goes on",
    errno.EROFS: "{} lies on a read-only file system: name another folder",
    errno.EACCES: "no permission for {}",
    errno.ENOENT: "{} is not there",
    errno.ENOTDIR: "{} is not a folder",
    errno.EISDIR: "{} is a folder, not a file",
    errno.EEXIST: "{} is there already",
}

_OF_WRITES = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Told by a write, which knows no name."""

_LONGEST_LINE = 2000
"""Characters of an error; what libraries say may have many lines, or hold all that they were given."""


class UserError(Exception):
    """Something that a person can mend, told in one line: what, where, and how."""


def at_least_one(text: str) -> int:
    """A count on the command line. Raises ArgumentTypeError for anything below 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, got {text}")
    return number


def none_or_more(text: str) -> int:
    """A count on the command line that may be 0. Raises ArgumentTypeError for anything below."""
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"must be 0 or more, got {text}")
    return number


at_least_one.__name__ = none_or_more.__name__ = "int"  # argparse says: invalid int value


def number(least: float, most: float = math.inf, *, above: bool = False) -> Callable[[str], float]:
    """A number on the command line in [least, most], or above `least`; never NaN. The reader raises ArgumentTypeError for another."""
    wanted = (
        f"be more than {least:g}" + (f", {most:g} at most" if math.isfinite(most) else "")
        if above
        else f"lie in [{least:g}, {most:g}]"
        if math.isfinite(most)
        else f"be {least:g} or more"
    )

    def read(text: str) -> float:
        value = float(text)
        if not (least <= value <= most) or (above and value == least):
            raise argparse.ArgumentTypeError(f"must {wanted}, got {text}")
        return value

    read.__name__ = "float"
    return read


def one_line(error: BaseException) -> str | None:
    """The line that tells a person of an error; None for an error of ours, of which the traceback tells more."""
    if isinstance(error, OSError) and error.errno in _PLACES and (error.filename or error.errno in _OF_WRITES):
        return _PLACES[error.errno].format(error.filename or "what is written")
    if isinstance(error, json.JSONDecodeError | tomllib.TOMLDecodeError):
        return f"a file that should hold {'JSON' if isinstance(error, json.JSONDecodeError) else 'TOML'} does not: {error}"
    if isinstance(error, UnicodeEncodeError) and "surrogates" in error.reason:
        return f"{ascii(error.object)[1:-1][:_LONGEST_LINE]} has a name that is no UTF-8: rename it"
    if isinstance(error, UnicodeEncodeError):  # of a file's name, which every system call encodes
        name = ascii(error.object)[1:-1][:_LONGEST_LINE]
        return f"{name} cannot be written in this locale's {error.encoding}: set LC_ALL=C.UTF-8, and PYTHONUTF8=1 where that is 0"
    if isinstance(error, RuntimeError) and str(error).startswith("Symlink loop"):  # of Path.resolve
        return f"{str(error)[:_LONGEST_LINE]}: a link that leads to itself"
    if isinstance(error, RuntimeError) and str(error).startswith("Could not determine home"):  # of Path.home and Path.expanduser
        return "this user has no home folder: set HOME to a folder that can be written"
    if isinstance(error, ValueError | OSError | UserError):
        return " ".join(str(error).split())[:_LONGEST_LINE] or type(error).__name__
    return None
