"""Environments of their own, for engines whose packages ours cannot live with: where they lie, and whether workers can run there.

A stage whose `resources.environment` is mmpose works by the Python of `.env-mmpose` (`make env-mmpose`), in the folder
`$WHIM_ENVIRONMENTS`, or else in the checkout; on a cluster under the same path on every node. It runs this checkout's code, and talks to
Ray in pickles: its Python and its Ray must be of our versions.
"""

import platform
import shlex
import subprocess
from collections.abc import Iterable
from importlib.metadata import version
from os import environ
from pathlib import Path
from typing import Any

from stages.stage import Stage

ROOT = Path(__file__).resolve().parents[2]

_PROBE = "import platform, ray, pipeline.engine.worker; print(platform.python_version(), ray.__version__)"


def runtime_env(environment: str) -> dict[str, Any]:
    """Ray's options for a worker in that environment; '' is our own."""
    if not environment:
        return {}
    return {"py_executable": shlex.quote(str(_python(environment))), "env_vars": {"PYTHONPATH": str(ROOT)}}


def check_environments(stages: Iterable[Stage], *, on_ray: bool) -> None:
    """Raise ValueError when a stage's environment is not here, or cannot work with ours; without Ray, when a stage needs any."""
    for stage in stages:
        environment = stage.resources.environment
        fault = "" if not environment else _fault(environment) if on_ray else "a run in one process cannot enter: leave --local out"
        if fault:
            who = " by ".join(filter(None, (stage.name, stage.detector)))
            raise ValueError(f"{who} needs .env-{environment}, which {fault}")


def _python(environment: str) -> Path:
    return Path(environ.get("WHIM_ENVIRONMENTS", ROOT)).absolute() / f".env-{environment}" / "bin" / "python"


def _fault(environment: str) -> str:
    """What is wrong with an environment, and how to mend it; '' when nothing is."""
    python = _python(environment)
    if not python.is_file():
        return f"is not in {python.parents[2]}: make env-{environment}"
    anew = f"remove it, then make env-{environment}"
    probe = subprocess.run(
        [python, "-P", "-c", _PROBE], env={**environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    if probe.returncode:
        return f"cannot run this code ({(probe.stderr.strip() or 'it does not say why').splitlines()[-1]}): {anew}"
    theirs, ours = probe.stdout.split(), [platform.python_version(), version("ray")]
    if theirs[1] != ours[1] or theirs[0].split(".")[:2] != ours[0].split(".")[:2]:
        return f"has Python {theirs[0]} and Ray {theirs[1]}, not {ours[0]} and {ours[1]}: {anew}"
    return ""
