"""Where all model files lie, reading arrays, and the sha256 of any file, without importing torch: planners ask for them.

One rule: what does not come with the code lies in one folder, `$WHIM_WEIGHTS`, or else `weights/` of the checkout, or else
`~/.local/share/whim/weights` of an installed package, under the name that `whim weights list` shows: `mano/MANO_RIGHT.pkl`,
`mediapipe/*.tflite`, one folder a network, and what is learned here: `arctic/pose_prior.npz`, `calibration.json`. `$WHIM_MANO` and
`$WHIM_PRIOR` name a single file that lies elsewhere.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import Literal
from zipfile import ZipFile, is_zipfile

import numpy as np

_MOST_BYTES = 1 << 30
"""That an npz of ours may unpack to: MANO's arrays are 10 MB, a pose prior less."""
STANDIN = Path(__file__).parent / "assets" / "standin.npz"
POSE_PRIOR = Path(__file__).parent / "assets" / "pose_prior.npz"
_HEADERS = Lock()
"""numpy reads headers by `ast`, whose depth CPython 3.11 and 3.12 count for all threads together: one at a time (python/cpython#106905)."""


def weights_folder() -> Path:
    """The folder of all model files that do not come with the code; of an installed package, among the user's data."""
    checkout = Path(__file__).parents[1]
    if "WHIM_WEIGHTS" in os.environ:
        return Path(os.environ["WHIM_WEIGHTS"])
    if (checkout / "pyproject.toml").is_file():
        return checkout / "weights"
    return Path(os.environ.get("XDG_DATA_HOME", Path.home() / ".local" / "share")) / "whim" / "weights"


def licensed_model() -> Path:
    """Where MANO's own file lies once its licence is agreed to."""
    return weights_folder() / "mano" / "MANO_RIGHT.pkl"


def trained_prior() -> Path:
    """Where `whim learn prior --arctic` writes."""
    return weights_folder() / "arctic" / "pose_prior.npz"


def model_file() -> Path:
    """The hand model in use: $WHIM_MANO, else MANO's own file, else the stand-in that ships with the code.

    Raises FileNotFoundError when WHIM_MANO names no file.
    """
    named = os.environ.get("WHIM_MANO")
    if named and not Path(named).is_file():
        raise FileNotFoundError(f"WHIM_MANO is {named}, where no file is: set it to your MANO_RIGHT.pkl, or unset it for the stand-in hand")
    if named:
        return Path(named)
    return licensed_model() if licensed_model().exists() else STANDIN


def hand_of(path: Path) -> Literal["mano", "standin"]:
    """Whose hand a model file holds: the stand-in is the file that ships, or a copy; every other one, pickle or npz, is MANO's."""
    is_copy = path == STANDIN or (path.suffix == ".npz" and path.is_file() and sha256_of(path) == sha256_of(STANDIN))
    return "standin" if is_copy else "mano"


def prior_file() -> Path:
    """The pose prior in use: $WHIM_PRIOR, else with MANO's own file the trained one, else the invented poses' that ships.

    ARCTIC's poses are turns of MANO's joints, which the stand-in's are not. Raises FileNotFoundError when WHIM_PRIOR names no file.
    """
    named = os.environ.get("WHIM_PRIOR")
    if named and not Path(named).is_file():
        raise FileNotFoundError(f"WHIM_PRIOR is {named}, where no file is: make one by whim learn prior, or unset it for the shipped prior")
    if named:
        return Path(named)
    return trained_prior() if trained_prior().exists() and hand_of(model_file()) == "mano" else POSE_PRIOR


def prior_source() -> str:
    """Whose poses the prior in use was learned from, and under which licence, as its sidecar says."""
    try:
        about = json.loads(prior_file().with_suffix(".json").read_text())
        return f"{about['poses']} (licence: {about['licence']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "of unknown poses (licence: not stated)"


def read_arrays(path: Path, names: Iterable[str]) -> dict[str, np.ndarray]:
    """Those of the named arrays that an npz holds; no pickles. ValueError that names the file when it is not a whole npz."""
    if path.exists() and not is_zipfile(path):
        raise ValueError(f"{path} is no npz, or cut short: copy or make it again")
    try:
        with ZipFile(path) as archive:
            declared = sum(record.file_size for record in archive.infolist())
        if declared > _MOST_BYTES:
            raise ValueError(f"{path.stat().st_size:,} bytes that unpack to {declared:,}")
        with _HEADERS, np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in names if name in archive.files}
        if odd := [name for name, array in arrays.items() if not isinstance(array, np.ndarray) or array.dtype.kind not in "biufcSU"]:
            raise ValueError(f"{', '.join(odd)} holds no numbers")
        return arrays
    except FileNotFoundError:
        raise
    except Exception as error:  # numpy reads headers by Python's tokenizer and parser, which may raise anything
        raise ValueError(f"{path} is damaged ({error}): copy or make it again") from error


def mapped_array(path: Path) -> np.ndarray:
    """The array of an npy, mapped, not read; safe in any thread. Raises ValueError and OSError as `np.load`; holds no pickles."""
    with _HEADERS:
        return np.load(path, mmap_mode="r", allow_pickle=False)


def below(folder: Path, name: object) -> Path:
    """The file of that name below a folder, of a list that somebody else wrote. Raises ValueError for a path that leads elsewhere."""
    path = PurePosixPath(name) if isinstance(name, str) and "\0" not in name else None
    if path is None or not path.parts or path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{str(name)[:200]!r} is no path below {folder}")
    return folder / path


def sha256_of(path: Path) -> str:
    """Hex digest of a file of any size."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
