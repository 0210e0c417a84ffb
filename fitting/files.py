"""Where the model files lie, without importing torch: planners ask for their sha256."""

import hashlib
import os
from pathlib import Path

STANDIN = Path(__file__).parent / "assets" / "standin.npz"
POSE_PRIOR = Path(__file__).parent / "assets" / "pose_prior.npz"

LICENSED_MODEL = Path(__file__).parents[1] / "weights" / "mano" / "MANO_RIGHT.pkl"


def model_file() -> Path:
    """The hand model in use: $WHIM_MANO, else weights/mano/MANO_RIGHT.pkl, else the stand-in that ships with the code."""
    named = os.environ.get("WHIM_MANO")
    if named:
        return Path(named)
    return LICENSED_MODEL if LICENSED_MODEL.exists() else STANDIN


def sha256_of(path: Path) -> str:
    """Hex digest of a file. FileNotFoundError that says how to mend it when there is none."""
    if not path.exists():
        raise FileNotFoundError(f"no model file at {path}; set WHIM_MANO to your MANO_RIGHT.pkl, or unset it for the stand-in hand")
    return hashlib.sha256(path.read_bytes()).hexdigest()
