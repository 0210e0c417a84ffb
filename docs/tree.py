"""Write the README's tree, by folder, and `docs/map.md`, by file, from what git tracks: `make readme`. A test holds both."""

import ast
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OTHERS = {
    "manifests": "WHIM's 1,457 videos; the networks: where from, sha256, licence",
    "cluster": "a GPU cluster on AWS, this machine as a cluster, an sshd on loopback to test it",
    "docs": "the formats, the stages, the figures, the map of every file",
    "tests": "one folder a package; engine/ holds the engine's promises, chain/ the whole job on real video",
}
BEGIN, END = "<!-- tree -->", "<!-- /tree -->"


def tracked() -> list[Path]:
    """Every Python file that git knows, tests aside, relative to the checkout."""
    listed = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return sorted(Path(name) for name in listed if not name.startswith("tests/") and (ROOT / name).is_file())


def first_sentence(path: Path) -> str:
    """First sentence of a module's docstring, without its full stop."""
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    return re.split(r"(?<!\beq)(?<!\bsec)(?<!\bet al)\.(?:\s|$)", " ".join(text.split()), maxsplit=1)[0]


def folders(files: Iterable[Path]) -> list[Path]:
    """Every folder that is a package, those inside one after it."""
    return sorted({path.parent for path in files if path.name == "__init__.py"})


def tree(files: Iterable[Path]) -> str:
    """The folders as a Markdown block, one a line."""
    lines = [
        f"{'  ' * (len(folder.parts) - 1) + folder.name + '/':<20}{first_sentence(ROOT / folder / '__init__.py')}"
        for folder in folders(files)
        if len(folder.parts) < 3
    ]
    lines += [f"{name + '/':<20}{text}" for name, text in OTHERS.items()]
    return "\n".join([BEGIN, "```", *lines, "```", END])


def updated(readme: str) -> str:
    """The README with its tree as it should be."""
    before, rest = readme.split(BEGIN)
    return before + tree(tracked()) + rest.split(END)[1]


def file_map() -> str:
    """The page of every file by folder, with the first sentence of its docstring."""
    by_folder: dict[Path, list[Path]] = {}
    for path in tracked():
        by_folder.setdefault(path.parent, []).append(path)
    parts = ["# Every file", "Made by `make readme` from what git tracks."]
    for folder, files in sorted(by_folder.items()):
        package = ROOT / folder / "__init__.py"
        title = "The root" if folder == Path() else f"`{folder}/`"
        said = first_sentence(package) if package.is_file() else OTHERS.get(str(folder), "")
        about = f": {said}" if said else ""
        rows = [
            f"| `{path.name}` | {first_sentence(ROOT / path).replace('|', chr(92) + '|')} |" for path in files if path.name != "__init__.py"
        ]
        parts.append("\n".join([f"## {title}{about}", "", *(["| | |", "|---|---|", *rows] if rows else [])]).rstrip())
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    file = ROOT / "README.md"
    file.write_text(updated(file.read_text()))
    (ROOT / "docs" / "map.md").write_text(file_map())
