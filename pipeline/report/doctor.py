"""What a run needs of this machine, looked at one by one before the first video is asked for: `whim doctor`."""

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from tempfile import NamedTemporaryFile

from fitting.files import hand_of, licensed_model, model_file, sha256_of

LEAST_FREE_BYTES = 10 << 30
"""Of the data folder's disk: a few dozen videos and their shards."""
LEAST_FILES = 4096
"""Files that a process may hold open: Ray's own advice for a node (`ulimit -n`)."""
LEAST_PROCESSES = 4096
"""Processes and threads of this user: Ray starts a few hundred."""
LEAST_SHARED_BYTES = 1 << 30
"""Of /dev/shm, where Ray keeps objects; in less it takes the disk, and warns."""
MOST_SKEW_S = 5.0
"""By which this machine's clock may differ from that of the data folder's file system."""


class Health(StrEnum):
    """How one thing is."""

    GOOD = "good"
    NOTE = "note"
    """A run works without it, or slower."""
    BAD = "bad"
    """A run fails for want of it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What was seen of one thing."""

    name: str
    health: Health
    told: str
    mend: str = ""
    """What to do, unless it is good."""


def examine(data: Path) -> Iterator[Finding]:
    """Every thing in turn; what cannot even be looked at is bad, and says why."""
    for name, look in _LOOKS.items():
        try:
            yield look(data)
        except Exception as error:  # a doctor never dies of a patient
            yield Finding(name, Health.BAD, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}", "mend that, and ask again")


def _ffmpeg(data: Path) -> Finding:
    import av

    wanted = ("h264", "hevc", "vp9", "av1", "mjpeg")
    lacking = [name for name in wanted if name not in av.codec.codecs_available]
    told = f"PyAV {av.__version__} with its own libavcodec {'.'.join(map(str, av.library_versions['libavcodec']))}"
    if lacking:
        return Finding("ffmpeg", Health.BAD, f"{told} reads no {', '.join(lacking)}", "pip install --force-reinstall av")
    return Finding("ffmpeg", Health.GOOD, f"{told}: {', '.join(wanted)}")


def _javascript(data: Path) -> Finding:
    from yt_dlp.utils import _jsruntime
    from yt_dlp.version import __version__

    kinds = (_jsruntime.DenoJsRuntime, _jsruntime.NodeJsRuntime, _jsruntime.BunJsRuntime, _jsruntime.QuickJsRuntime)
    found = [info for kind in kinds if (info := kind().info) is not None]
    good = [info for info in found if info.supported]
    told = f"yt-dlp {__version__}, " + (", ".join(f"{info.name} {info.version}" for info in found) or "no JavaScript runtime")
    mend = "pip install 'yt-dlp[default,deno]'"
    if not good:
        return Finding("JavaScript", Health.NOTE, f"{told}: YouTube hides formats from who has none", mend)
    if find_spec("yt_dlp_ejs") is None:
        return Finding("JavaScript", Health.NOTE, f"{told}; yt-dlp-ejs is not here", mend)
    return Finding("JavaScript", Health.GOOD, told)


def _disk(data: Path) -> Finding:
    from pipeline.report.needs import elsewhere

    there = next(folder for folder in (data, *data.parents) if folder.exists())
    if not os.access(there, os.W_OK):
        return Finding("disk", Health.BAD, f"{there} cannot be written", elsewhere(data))
    usage = shutil.disk_usage(there)
    nodes = os.statvfs(there)
    told = f"{usage.free / 1e9:,.0f} of {usage.total / 1e9:,.0f} GB free at {data}"
    if usage.free < LEAST_FREE_BYTES:
        return Finding("disk", Health.BAD, told, f"make room, or {elsewhere(data)}: whim plan says how much a list takes")
    if nodes.f_files and nodes.f_favail < 100_000:
        return Finding("disk", Health.NOTE, f"{told}, room for {nodes.f_favail:,} more files", "a clip takes about seven files")
    return Finding("disk", Health.GOOD, told)


def _ray(data: Path) -> Finding:
    from pipeline.engine.nodes.cluster import ADDRESS

    try:
        told = f"Ray {version('ray')}"
    except PackageNotFoundError:
        return Finding("Ray", Health.BAD, "Ray is not installed", "make setup; whim run --local works without it")
    shared = shutil.disk_usage("/dev/shm").total if Path("/dev/shm").is_dir() else 0
    where = f"joins {os.environ[ADDRESS]}" if os.environ.get(ADDRESS) else f"starts its own, {os.cpu_count()} CPUs"
    if shared < LEAST_SHARED_BYTES:
        return Finding("Ray", Health.NOTE, f"{told}, {shared >> 20} MiB of /dev/shm", "docker run --shm-size=2g, or mount a larger one")
    return Finding("Ray", Health.GOOD, f"{told}, {where}, {shared / 1e9:.0f} GB of /dev/shm")


def _gpu(data: Path) -> Finding:
    import torch

    if torch.cuda.is_available():
        about = [torch.cuda.get_device_properties(k) for k in range(torch.cuda.device_count())]
        return Finding("GPU", Health.GOOD, ", ".join(f"{one.name} ({one.total_memory / 1e9:.0f} GB)" for one in about))
    asked = shutil.which("nvidia-smi")  # which waits for ever where a driver hangs
    seen = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False, timeout=60) if asked else None
    if seen and seen.returncode == 0 and seen.stdout.strip():
        told = f"{seen.stdout.splitlines()[0]}, and torch {torch.__version__} does not see it"
        return Finding("GPU", Health.BAD, told, "make clean setup TORCH_INDEX=https://download.pytorch.org/whl/cu128")
    return Finding("GPU", Health.NOTE, f"none: networks run on the CPU (torch {torch.__version__})", "nothing, unless this machine has one")


def _weights(data: Path) -> Finding:
    from stages.detectors.mediapipe.hint import load_hint
    from stages.detectors.mediapipe.models import COMMAND, folders, manifest
    from stages.detectors.weights import BadWeights, MissingWeights, catalogue, weight_file
    from stages.fusion.calibration import calibration_file, load_calibrations

    networks = manifest()["files"]
    for name, about in networks.items():
        places = [folder / f"{name}.tflite" for folder in folders()]
        found = next((path for path in places if path.is_file()), None)
        if found is None or sha256_of(found) != about["sha256"]:
            return Finding("weights", Health.BAD, f"{found or places[0]} is {'damaged' if found else 'not there'}", COMMAND)
    here, damaged = [], []
    for name in catalogue():
        try:
            weight_file(name)
            here.append(name)
        except MissingWeights:
            continue
        except BadWeights as error:
            damaged.append(str(error))
    for read in (
        load_hint,
        lambda: load_calibrations(calibration_file()),
    ):  # what somebody learned for themselves, maybe by another version
        try:
            read()
        except ValueError as error:
            return Finding("weights", Health.BAD, str(error), "learn it anew, or take it out of the folder of weights")
    told = f"the {len(networks)} embedded networks are sound, {len(here)} of {len(catalogue())} larger ones are here"
    if damaged:
        return Finding("weights", Health.BAD, damaged[0], "whim weights check, then whim weights get NAME")
    return Finding("weights", Health.GOOD, told)


def _mano(data: Path) -> Finding:
    path = model_file()
    if hand_of(path) == "mano":
        return Finding("MANO", Health.GOOD, f"{path}")
    mend = f"agree to its licence at mano.is.tue.mpg.de and put MANO_RIGHT.pkl at {licensed_model()}"
    return Finding("MANO", Health.NOTE, "not here: hands are fitted by the stand-in that ships", mend)


def _clock(data: Path) -> Finding:
    there = next(folder for folder in (data, *data.parents) if folder.exists())
    with NamedTemporaryFile(dir=there if os.access(there, os.W_OK) else None) as file:
        before = time.time()
        file.write(b".")
        file.flush()
        skew_s = Path(file.name).stat().st_mtime - (before + time.time()) / 2
    newest = max(path.stat().st_mtime for path in Path(__file__).parent.glob("*.py"))
    if abs(skew_s) > MOST_SKEW_S:
        return Finding("clock", Health.BAD, f"{skew_s:+.0f} s off that of the disk at {there}", "start NTP here and there (timedatectl)")
    if time.time() < newest - 86400:
        return Finding("clock", Health.BAD, f"{time.ctime()}, before this code was written", "set it: timedatectl set-ntp true")
    return Finding("clock", Health.GOOD, time.strftime("%Y-%m-%d %H:%M:%S %Z"))


def _limits(data: Path) -> Finding:
    import resource

    files, processes = (resource.getrlimit(kind) for kind in (resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC))
    few = [
        f"{what} {soft:,} (ulimit {flag} {least:,})"
        for what, flag, (soft, _), least in (("open files", "-n", files, LEAST_FILES), ("processes", "-u", processes, LEAST_PROCESSES))
        if 0 <= soft < least
    ]
    if few:
        return Finding("limits", Health.NOTE, f"few {' and '.join(few)}", "raise them in the shell, or in /etc/security/limits.conf")
    return Finding("limits", Health.GOOD, f"{files[0]:,} open files" if files[0] >= 0 else "none")


_LOOKS: dict[str, Callable[[Path], Finding]] = {
    "ffmpeg": _ffmpeg,
    "JavaScript": _javascript,
    "disk": _disk,
    "Ray": _ray,
    "GPU": _gpu,
    "weights": _weights,
    "MANO": _mano,
    "clock": _clock,
    "limits": _limits,
}
