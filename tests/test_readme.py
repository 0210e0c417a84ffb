"""What README and docs say is so: their trees are the tree, their commands are commands, their files are there."""

import ast
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import whim
from stages.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
README = PAGES[0].read_text()
CONTINUED = re.compile(r"\\\n\s*")


def commands_of(text: str) -> list[str]:
    """Every line of a shell block, and every `whim ...` in the text of a page or a module."""
    blocks = [
        line.split("  #")[0].strip()
        for block in re.findall(r"```sh\n(.*?)```", CONTINUED.sub(" ", text), re.S)
        for line in block.splitlines()
    ]
    inline = re.findall(r"`((?:\.venv/bin/)?whim [a-z][^`\n]*)`", re.sub(r"```.*?```", "", text, flags=re.S))
    return [command for command in [*blocks, *inline] if command and not command.startswith("#")]


COMMANDS = [(page.relative_to(ROOT).as_posix(), command) for page in PAGES for command in commands_of(page.read_text())]
MENTIONED = [
    (path, command)
    for path in subprocess.run(
        ["git", "ls-files", "*.py", "cluster", "Makefile"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    if not path.startswith("tests/") and (ROOT / path).is_file()
    for command in commands_of((ROOT / path).read_text())
]


@pytest.fixture(scope="module")
def tree() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "docs/tree.py"))


def test_the_readme_is_one_that_a_user_reads() -> None:
    assert len(README.splitlines()) <= 150
    assert "split.frames_per_second" in README


def test_the_tree_names_every_folder(tree: dict[str, Any]) -> None:
    made = tree["tree"](tree["tracked"]())
    shown = [line.split("/")[0] for line in README[README.index(tree["BEGIN"]) : README.index(tree["END"])].splitlines()[2:-1]]
    assert shown == [line.split("/")[0] for line in made.splitlines()[2:-2]], "run make readme"


def test_the_map_names_every_file(tree: dict[str, Any]) -> None:
    named, folder = set(), ""
    for line in (ROOT / "docs/map.md").read_text().splitlines():
        if line.startswith("## "):
            folder = line.split("`")[1].rstrip("/") if "`" in line else "."
        elif line.startswith("| `"):
            named.add(f"{folder}/{line.split('`')[1]}".removeprefix("./"))
    files = [path for path in tree["tracked"]() if path.name != "__init__.py"]
    assert named == {str(path) for path in files}, "run make readme"
    assert [str(path) for path in files if not tree["first_sentence"](ROOT / path)] == [], "a file that does not say what it is"


def test_no_docstring_needs_the_line_before_it() -> None:
    """The first sentence names the thing: "Of an objective." is understood by nobody who reads it alone."""
    listed = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    bad = [
        f"{name}: {text.splitlines()[0]}"
        for name in listed
        if (ROOT / name).is_file() and re.search(r'"""(Of|By|As|The same)\b', source := (ROOT / name).read_text())
        for node in ast.walk(ast.parse(source))
        if isinstance(node, documented) and re.match(r"(Of|By|As|The same)\b", text := ast.get_docstring(node) or "")
    ]
    assert bad == []


def test_there_are_commands() -> None:
    assert len([page for page, _ in COMMANDS if page == "README.md"]) >= 20
    assert len(MENTIONED) >= 10


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_every_command_is_one(page: str, command: str) -> None:
    words = shlex.split(command)
    if words[0] == "make":
        done = subprocess.run(["make", "--dry-run", *words[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return
    whims = [i for i, word in enumerate(words) if word.endswith("whim") and words[i - 1] != "import"]  # `whim import whim`
    starts = sorted([*whims, *(i for i, word in enumerate(words) if word in ("pipeline", "--"))])
    assert callable(handler_of(words[starts[-1] + 1 :]))


@pytest.mark.parametrize(("file", "command"), MENTIONED)
def test_every_command_that_the_code_names_is_one(file: str, command: str) -> None:
    assert callable(handler_of(command.split()[1:]))


def handler_of(words: list[str]) -> Any:
    """What a command of the docs calls; it may be given whole or only be named (`whim weights get`, `whim train ...`)."""
    commands = whim.build_commands()
    if words[-1] == "...":
        return commands.known[next(name for name in commands.known if name.split()[: len(words) - 1] == words[:-1])].get_default("command")
    try:
        return commands.parse(words).command
    except UserError as error:
        if "required" not in str(error) and "expected" not in str(error):
            raise
        return commands.known[next(name for name in commands.known if words[: len(name.split())] == name.split())].get_default("command")


@pytest.mark.parametrize(
    ("page", "link"), [(page, link) for page in PAGES for link in re.findall(r"\]\(((?!http|#)[^)]+)\)", page.read_text())]
)
def test_every_file_it_points_to_is_there(page: Path, link: str) -> None:
    assert (page.parent / link.partition("#")[0]).exists()


def test_the_site_builds_without_a_warning_and_fetches_nothing(tmp_path: Path) -> None:
    """Links and anchors inside are checked by the build, which is strict."""
    build = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(tmp_path)]
    ran = subprocess.run(build, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")
    pages = {path.relative_to(tmp_path).as_posix(): path.read_text() for path in tmp_path.rglob("*.html")}
    for page, told in {
        "index.html": "Two commands",
        "reference/tables.html": "side_log_odds",
        "reference/settings.html": "fuse_hands.match_iou",
    }.items():
        assert told in pages[page]
    for page, text in pages.items():
        fetched = re.findall(r"<(?:link|script|img)[^>]*(?:href|src)=\"?(https?://[^\"> ]+)", text)
        assert not [address for address in fetched if "canonical" not in address], page
