"""The README is true: its tree is the tree, its commands are commands, its files are there."""

import re
import runpy
import subprocess
from pathlib import Path

import pytest

import whim

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = [
    line.split("#")[0].strip() for block in re.findall(r"```sh\n(.*?)```", README, re.S) for line in block.splitlines() if line.strip()
]


def test_the_tree_is_the_tree() -> None:
    updated = runpy.run_path(str(ROOT / "docs/tree.py"))["updated"]
    assert updated(README) == README, "run make readme"


def test_there_are_commands() -> None:
    assert len(COMMANDS) >= 10


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_one(command: str) -> None:
    words = command.split()
    if words[0] == "make":
        done = subprocess.run(["make", "--dry-run", *words[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return
    starts = [i for i, word in enumerate(words) if word.endswith("whim") or word in ("pipeline", "--")]
    arguments = whim.parse(words[starts[-1] + 1 :])
    assert callable(arguments.command)


@pytest.mark.parametrize("link", re.findall(r"\]\(((?!http)[^)]+)\)", README))
def test_every_file_it_points_to_is_there(link: str) -> None:
    assert (ROOT / link).exists()
