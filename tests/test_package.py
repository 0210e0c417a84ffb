"""The wheel: installed into an environment of its own it is a working `whim`, far from the checkout; the Dockerfile builds on it."""

import json
import os
import shutil
import site
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
from dockerfile_parse import DockerfileParser

import whim
from studio.video import Film, make_videos

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from what git tracks, so that nothing else of the checkout gets in."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines():
        if (ROOT / name).is_file() and not name.startswith(("tests/", "benchmarks/", "docs/")):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", out, source]
    subprocess.run(list(map(str, pip)), check=True)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command of an environment that has the wheel and, beside it, the dependencies of this one."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    subprocess.run([sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel], check=True)
    (packages,) = (folder / "lib").glob("python*/site-packages")
    (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    return folder / "bin" / "whim"


def run(command: Path, folder: Path, *words: str, status: int = 0) -> str:
    """What the command prints in a folder and a home of its own, where nothing points to the checkout."""
    cache = os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "XDG_CACHE_HOME": cache, "OMP_NUM_THREADS": "1"}
    weights = os.environ.get("WHIM_WEIGHTS", str(ROOT / "weights"))
    environment |= {"WHIM_WEIGHTS": weights} if Path(weights, "mediapipe").is_dir() else {}
    done = subprocess.run([str(command), *words], cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def test_the_wheel_holds_the_manifests_and_no_tests(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {"manifests/whim.txt", "manifests/weights.toml", "manifests/mediapipe.toml", "pipeline/report/report.html"} <= names
    tops = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert tops == {"fitting", "hands", "manifests", "pipeline", "stages", "studio", "training", "whim.py"}


@pytest.mark.parametrize("backend", ["torch", pytest.param("auto", marks=pytest.mark.long)])  # auto compiles the fit first
def test_installed_it_works_from_another_folder(backend: str, installed: Path, tmp_path: Path) -> None:
    assert run(installed, tmp_path, "--version") == f"whim {whim.__version__}\n"
    assert "vitpose" in run(installed, tmp_path, "weights", "list")
    make_videos(tmp_path / "videos", 1, Film(seconds=2.0, frames_per_second=5))
    where = ("--data", "made", "--videos", "videos")
    assert json.loads(run(installed, tmp_path, "plan", "--json", *where))["num_pending"] > 0
    run(installed, tmp_path, "run", "--local", *where, "--set", "split.frames_per_second=2", "--set", f"fit.backend={backend}")
    assert json.loads(run(installed, tmp_path, "plan", "--json", "--data", "made"))["num_pending"] == 0
    index = json.loads((tmp_path / "made" / "shards" / "index.json").read_text())
    assert sum(shard["hands"] for shard in index["shards"]) >= 4


def test_a_user_gets_no_test_tools() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert set(extras) == {"detectors", "openvino", "training", "dev"}
    tools = {"pytest", "mypy", "ruff", "hypothesis", "moto", "import-linter", "beartype", "smplx", "mediapipe"}
    named = {line.split("[")[0].split(">")[0] for extra, lines in extras.items() if extra != "dev" for line in lines}
    assert not tools & (named | {line.split("[")[0] for line in project["dependencies"]})


def test_the_dockerfile_runs_as_an_ordinary_user_on_what_is_copied(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Dockerfile", tmp_path)
    parsed = DockerfileParser(str(tmp_path / "Dockerfile"))
    steps = [(step["instruction"], step["value"]) for step in parsed.structure if step["instruction"] != "COMMENT"]
    kinds = [kind for kind, _ in steps]
    assert steps[0][0] == "ARG"
    assert steps[0][1].startswith("BASE=")
    assert ("FROM", "${BASE}") in steps
    assert kinds.count("FROM") == 1
    users = [value for kind, value in steps if kind == "USER"]
    assert users, "it would run as root"
    assert users[-1] not in ("root", "0")
    assert kinds.index("USER") < kinds.index("ENTRYPOINT")
    assert dict(steps)["ENTRYPOINT"] == '["whim"]'
    copied = [name for kind, value in steps if kind == "COPY" for name in value.split()[:-1] if not name.startswith("--")]
    assert {"manifests", "whim.py", "pyproject.toml", "constraints.txt"} <= {name.rstrip("/").removeprefix("./") for name in copied}
    assert all((ROOT / name).exists() for name in copied)
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert ignored[0] == "*"
    assert {f"!{name.rstrip('/')}" for name in copied} <= set(ignored)
    for kind, value in steps:
        if kind == "RUN" and "apt-get install" in value:
            assert "wget" in value.split(), "KubeRay's probes call it"
            assert "--no-install-recommends" in value
            assert "rm -rf /var/lib/apt/lists/*" in value
        if kind == "RUN" and "pip install" in value:
            assert "--no-cache-dir" in value
            assert "-c constraints.txt" in value
    written = {
        line.partition("=")[2]
        for kind, value in steps
        if kind == "ENV"
        for line in value.split()
        if line.startswith(("HOME=", "XDG_CACHE_HOME=", "NUMBA_CACHE_DIR="))
    }
    assert written == {"/data", "/tmp/cache", "/tmp/numba"}, "only the data folder and /tmp are written to"
    told = next(line for line in (ROOT / "Dockerfile").read_text().splitlines() if "docker run" in line)
    assert '--user "$(id -u):$(id -g)"' in told, "the image's own user may not write into a folder of the caller's"
