"""Where the model files lie, and the sha256 of any file, without importing torch: planners ask for them."""

import hashlib
import os
from pathlib import Path

STANDIN = Path(__file__).parent / "assets" / "standin.npz"
POSE_PRIOR = Path(__file__).parent / "assets" / "pose_prior.npz"

LICENSED_MODEL = Path(__file__).parents[1] / "weights" / "mano" / "MANO_RIGHT.pkl"


def model_file() -> Path:
    """The hand model in use: $WHIM_MANO, else weights/mano/MANO_RIGHT.pkl, else the stand-in that ships with the code.

    Raises FileNotFoundError when WHIM_MANO names no file.
    """
    named = os.environ.get("WHIM_MANO")
    if named and not Path(named).is_file():
        raise FileNotFoundError(f"WHIM_MANO is {named}, where no file is: set it to your MANO_RIGHT.pkl, or unset it for the stand-in hand")
    if named:
        return Path(named)
    return LICENSED_MODEL if LICENSED_MODEL.exists() else STANDIN


def sha256_of(path: Path) -> str:
    """Hex digest of a file of any size."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
