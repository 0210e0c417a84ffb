"""The machine that figures are measured on: processor, cores, graphics card, versions."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


def describe() -> dict[str, Any]:
    """Processor, cores, memory, load and the versions that matter."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    processor = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    packages = ("torch", "ray", "ai-edge-litert", "av", "numpy")
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        **{package: _version(package) for package in packages},
    }


def _version(package: str) -> str | None:
    """Version of an installed package; None of one that is not, which a benchmark of other parts can do without."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
