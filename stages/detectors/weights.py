"""Weights of the larger networks: which there are, where they lie, and reading a checkpoint without running code that it carries.

`manifests/weights.toml` lists them; `whim weights get NAME` fetches one. Where they lie, `fitting.files` says. A file whose
sha256 the manifest does not know is locked at its first use: `<file>.sha256` beside it, as sha256sum writes it.
"""

import pickle
import re
import tomllib
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from fitting.files import sha256_of, weights_folder

ROOT = Path(__file__).resolve().parents[2]
MANIFEST = ROOT / "manifests" / "weights.toml"

WRAPPERS = ("state_dict", "model", "teacher")
"""Under these names trainers keep the network's tensors: mmpose; detectron2 and D-FINE; a self-distilling trainer."""

State = dict[str, Any]
"""torch.Tensor by name. Torch is imported where a file is read: planners ask for hashes only."""


class MissingWeights(FileNotFoundError):
    """A network's file is not here. Says which, where from, under which licence, and how to get it."""


class BadWeights(ValueError):
    """A file is here, but it is damaged, unsafe, or another network's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """One row of the manifest."""

    name: str
    file: str
    """Path below the folder of weights."""
    network: str
    """What it is, and what it is for."""
    url: str
    """The file itself, or with `by_hand` the page where a person gets it."""
    licence: str
    paper: str
    size_mb: int = 0
    """About; 0 is unknown. The exact size counts once the hash is known."""
    sha256: str = ""
    """Empty: locked at first use."""
    agreement: str = ""
    """Who must agree to what before fetching it."""
    by_hand: str = ""
    """How a person gets the file where no program can."""

    @property
    def path(self) -> Path:
        return weights_folder() / self.file

    @property
    def lock(self) -> Path:
        return self.path.with_name(f"{self.path.name}.sha256")

    def known_sha256(self) -> str:
        """The hash that the file must have: pinned, or locked at its first use; '' before that."""
        if self.sha256:
            return self.sha256
        return self.lock.read_text().split()[0] if self.lock.exists() else ""

    def write_lock(self, sha256: str) -> None:
        """Remember the file's hash, in the format of sha256sum."""
        aside = self.lock.with_suffix(".aside")
        aside.write_text(f"{sha256}  {self.path.name}\n")
        aside.replace(self.lock)

    def how_to_get(self) -> str:
        """One line: where from, the licence, the command or the steps."""
        terms = f"{self.licence}; {self.agreement}" if self.agreement else self.licence
        command = f"whim weights get {self.name}" + (" --agree" if self.agreement else "")
        steps = f"{self.by_hand}, then put it at {self.path}" if self.by_hand else command
        return f"{self.network}, from {self.url} (licence: {terms}): {steps}"


@cache
def catalogue() -> Mapping[str, Weights]:
    """Every row of the manifest by name."""
    return {name: Weights(name=name, **row) for name, row in tomllib.loads(MANIFEST.read_text()).items()}


def find_weights(name: str) -> Weights:
    """The row of that name. Raises ValueError when there is none."""
    if name not in catalogue():
        raise ValueError(f"no weights {name!r} in {MANIFEST.name}: {', '.join(catalogue())}")
    return catalogue()[name]


def weight_file(name: str) -> Path:
    """The verified file of a network of the manifest.

    Raises MissingWeights when it is not here, BadWeights when it is not the file that was pinned or first used.
    """
    row = find_weights(name)
    if not row.path.is_file():
        raise MissingWeights(f"weights {name} are not at {row.path}. {row.how_to_get()}")
    sha256, known = hash_of(row.path), row.known_sha256()
    if known and sha256 != known:
        meant = "" if row.sha256 else f"; if you replaced it on purpose, remove {row.lock}"
        raise BadWeights(f"{row.path} is not the file known as {name} (sha256 {sha256}, wanted {known}): get it again{meant}")
    if not known:
        row.write_lock(sha256)
    return row.path


def weight_sha256(*names: str) -> dict[str, str]:
    """sha256 of the files of these networks, for a stage's `weights`. Raises as `weight_file`."""
    return {name: hash_of(weight_file(name)) for name in names}


def hash_of(path: Path) -> str:
    """sha256 of a file, computed once while its size and time stay."""
    stat = path.stat()
    return _hash_of(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=64)
def _hash_of(path: Path, size_bytes: int, modified_ns: int) -> str:
    return sha256_of(path)


def load_checkpoint(path: Path) -> State:
    """The tensors of a checkpoint on the CPU, without the wrappers that trainers put around them.

    Reads safetensors and torch's files, old and new, by torch's restricted reader: a pickle that calls anything but the rebuilding of
    tensors and arrays is refused. Raises BadWeights for that, and for files cut short, compressed, or without tensors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    with path.open("rb") as file:
        head = file.read(9)
    if head[:1] == b"<":
        raise BadWeights(f"{path} is a web page, not a checkpoint: the site wants a person to click; get the file by hand")
    try:
        content = load_file(path) if head[8:] == b"{" else _torch_load(path, zipped=head[:2] == b"PK")
    except pickle.UnpicklingError as error:
        raise BadWeights(f"{path} is refused: {why_unpickled(error)}") from error
    except BadWeights:
        raise
    except (SafetensorError, EOFError, RuntimeError, OSError, ValueError, LookupError, AttributeError, TypeError) as error:
        raise BadWeights(f"{path} is cut short, or no checkpoint: {_first_line(error)}") from error
    return _tensors(content, path)


def _torch_load(path: Path, *, zipped: bool) -> Any:
    import numpy as np
    import torch

    if zipped:
        refuse_bomb(path)
    arrays = [np.ndarray, np.dtype, np._core.multiarray._reconstruct, np._core.multiarray.scalar]  # type: ignore[attr-defined]
    old = [(function, f"numpy.core.multiarray.{function.__name__}") for function in arrays[2:]]  # as numpy 1 named them
    with (
        warnings.catch_warnings(action="ignore"),
        torch.serialization.safe_globals([*arrays, *old, *(type(np.dtype(code)) for code in np.typecodes["AllInteger"] + "?efd")]),
    ):
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)


def refuse_damage(path: Path) -> None:
    """Hold every record of a file of torch's against its checksum, which torch itself does not. Raises BadWeights."""
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged:
        raise BadWeights(f"{path} is damaged: its record {damaged} is not what was written; take an earlier copy")


def refuse_bomb(path: Path) -> None:
    """Torch stores its records as they are: a file that declares more bytes than it has is made to burst. Raises BadWeights."""
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
    except zipfile.BadZipFile as error:
        raise BadWeights(f"{path} is cut short: the end of the file, where its list of records is, is not there") from error
    declared, size = sum(record.file_size for record in records), path.stat().st_size
    if declared > size or any(record.compress_type != zipfile.ZIP_STORED for record in records):
        raise BadWeights(f"{path} is refused: {size:,} bytes that unpack to {declared:,}; torch writes checkpoints uncompressed")


def why_unpickled(error: Exception) -> str:
    """Why torch's restricted reader refuses a pickle; its own words advise to trust it."""
    called = re.search(r"(?:GLOBAL|global|class|function) ([\w.]+\.[\w.]+)", str(error))
    if called:
        return f"its pickle calls {called[1]}, which a checkpoint needs not; take one saved as tensors only"
    return "it is no checkpoint, or damaged from its beginning"


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__} {error}".splitlines()[0][:200]


def _tensors(content: Any, path: Path) -> State:
    import torch

    while isinstance(content, Mapping):
        inner = next((content[name] for name in WRAPPERS if isinstance(content.get(name), Mapping)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping):
        raise BadWeights(f"{path} holds a {type(content).__name__}, not a table of tensors")
    arrays = {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor) or hasattr(value, "__array__")}
    try:
        state = {name.removeprefix("module."): torch.as_tensor(value) for name, value in arrays.items()}
    except (TypeError, ValueError, RuntimeError) as error:  # arrays of objects, of records, of foreign byte order
        raise BadWeights(f"{path} holds arrays that are no tensors: {_first_line(error)}") from error
    inflated = [name for name, value in state.items() if is_inflated(value)]
    if not state or inflated:
        raise BadWeights(f"{path} holds " + (f"tensors larger than their data: {_some(inflated)}" if inflated else "no tensors"))
    return state


def is_inflated(tensor: Any) -> bool:
    """Whether a tensor shows more numbers than it has: one number may stand for a terabyte of them."""
    return bool(tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes())


def fill(network: Any, state: State, source: Path, *, ignore: Iterable[str] = ()) -> None:
    """Load a checkpoint's tensors into a torch.nn.Module: each has its place, each place its tensor.

    Names that match one of the regular expressions of `ignore` from their beginning may be left over; BatchNorm's counters may be
    absent or left over. Raises BadWeights that lists what is missing, left over, or of another shape.
    """
    wanted = network.state_dict()
    leave = re.compile("|".join([r".*\.num_batches_tracked$", *ignore]))
    missing = [name for name in wanted if name not in state and not leave.match(name)]
    unexpected = [name for name in state if name not in wanted and not leave.match(name)]
    shapes = [(name, tuple(state[name].shape), tuple(wanted[name].shape)) for name in wanted if name in state]
    misshapen = [f"{name} {here} for {there}" for name, here, there in shapes if here != there]
    faults = [
        f"{len(names)} {what}: {_some(names)}"
        for what, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", misshapen))
        if names
    ]
    if faults:
        raise BadWeights(f"{source} is another network's checkpoint, not {type(network).__name__}'s: {'; '.join(faults)}")
    network.load_state_dict(state, strict=False)


def _some(names: list[str]) -> str:
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
