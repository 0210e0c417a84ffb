"""Model files on their way to the nodes of a cluster: named by sha256, taken from where a node has them, else from the driver.

A node may hold other files than the driver, or none: `ray job submit` ships no weights, and what the driver's environment says (WHIM_MANO,
WHIM_WEIGHTS) is not said to workers. So the driver lists what its stages read; a worker lays those very files into a folder of its own
cache and works with that one. What lies in the data folder's `weights/` is seen by driver and workers alike.
"""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from fitting.files import sha256_of, weights_folder
from stages.stage import Stage

SINGLE = ("WHIM_MANO", "WHIM_PRIOR")
"""Variables that name one file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parcel:
    """The model files of a run."""

    files: Mapping[str, str] = field(default_factory=dict)
    """sha256 by path below the folder of weights, or by the variable that names the file."""
    seen_at: Mapping[str, str] = field(default_factory=dict)
    """Where the driver has each, by sha256: other nodes may see it there too."""
    carried: Mapping[str, Any] = field(default_factory=dict)
    """Ray's references to their content, by sha256."""


def adopt(root: Path) -> None:
    """Take the weights of a data folder where this machine has none of its own and nobody says where they are."""
    if "WHIM_WEIGHTS" not in os.environ and not weights_folder().is_dir() and (root / "weights").is_dir():
        os.environ["WHIM_WEIGHTS"] = str((root / "weights").absolute())


def pack(stages: Iterable[Stage], put: Callable[[bytes], Any] | None = None) -> Parcel:
    """What these stages read of this machine's model files; those that come with the code travel with it. `put`: Ray's."""
    wanted = {sha256 for stage in stages for sha256 in stage.weights.values()}
    folder = weights_folder()
    paths = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()} if folder.is_dir() else {}
    paths |= {name: Path(os.environ[name]) for name in SINGLE if os.environ.get(name)}
    hashes = {name: sha256_of(path) for name, path in paths.items()}
    files = {name: sha256 for name, sha256 in hashes.items() if sha256 in wanted}
    seen_at = {sha256: str(paths[name].absolute()) for name, sha256 in files.items()}
    return Parcel(files=files, seen_at=seen_at, carried={sha: put(Path(path).read_bytes()) for sha, path in seen_at.items()} if put else {})


def unpack(parcel: Parcel, root: Path, get: Callable[[Any], bytes]) -> None:
    """Have this process read the files of a parcel, and no others: from here, from where the driver has them, or as they were carried.

    Raises OSError where a file is nowhere, or the cache cannot be written.
    """
    if _are_here(parcel):
        return
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "whim" / "weights"
    name = hashlib.sha256(repr(sorted(parcel.files.items())).encode()).hexdigest()[:16]
    folder = cache / name
    if not folder.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        aside = Path(mkdtemp(dir=cache, prefix=f".{name}-"))
        try:
            for path, sha256 in parcel.files.items():
                _lay(aside / path, path, sha256, parcel, root, get)
            with suppress(OSError):  # another worker was faster
                aside.rename(folder)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    os.environ["WHIM_WEIGHTS"] = str(folder)
    for variable in SINGLE:
        os.environ.pop(variable, None)
        if variable in parcel.files:
            os.environ[variable] = str(folder / variable)


def _are_here(parcel: Parcel) -> bool:
    """Whether this process would read the parcel's files as it is."""
    if any(bool(os.environ.get(variable)) != (variable in parcel.files) for variable in SINGLE):
        return False
    here = {path: Path(os.environ[path]) if path in SINGLE else weights_folder() / path for path in parcel.files}
    return all(path.is_file() and sha256_of(path) == parcel.files[name] for name, path in here.items())


def _lay(place: Path, name: str, sha256: str, parcel: Parcel, root: Path, get: Callable[[Any], bytes]) -> None:
    """Copy one file to its place, from wherever it is what it should be."""
    place.parent.mkdir(parents=True, exist_ok=True)
    for candidate in (weights_folder() / name, root / "weights" / name, Path(parcel.seen_at[sha256])):
        with suppress(OSError):
            if candidate.is_file() and sha256_of(candidate) == sha256:
                shutil.copyfile(candidate, place)
                return
    if sha256 not in parcel.carried:
        raise FileNotFoundError(
            f"model file {name} ({sha256[:12]}) is nowhere on this node: put it into {root / 'weights'}, which all nodes see"
        )
    place.write_bytes(get(parcel.carried[sha256]))
