"""No module imports itself by way of others, imports inside functions counted: the layers of pyproject.toml see no circle within one."""

import ast
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def modules(root: Path) -> dict[str, Path]:
    """Every module of the project's packages, by its dotted name."""
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["root_packages"]
    files = [path for package in packages for path in sorted((root / package).rglob("*.py"))] + [root / "whim.py"]
    return {".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path for path in files if path.exists()}


def imports(path: Path, known: dict[str, Path]) -> set[str]:
    """Modules of ours that a file imports, at its top or in a function; what only a type checker reads is left out."""
    found = set()
    waiting: list[ast.AST] = [ast.parse(path.read_text())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            waiting += node.orelse
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name for name in inside if name in known} or {node.module}
        waiting += ast.iter_child_nodes(node)
    return found & known.keys()


def circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """Sets of modules that reach each other (Tarjan, 1972)."""
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    path: list[str] = []
    found = []

    def visit(name: str) -> None:
        number[name] = lowest[name] = len(number)
        path.append(name)
        for other in sorted(graph[name]):
            if other not in number:
                visit(other)
            if other in path:
                lowest[name] = min(lowest[name], lowest[other])
        if lowest[name] == number[name]:
            start = path.index(name)
            together = set(path[start:])
            del path[start:]
            if len(together) > 1 or name in graph[name]:
                found.append(together)

    for name in sorted(graph):
        if name not in number:
            visit(name)
    return found


def test_no_import_circle() -> None:
    known = modules(ROOT)
    assert len(known) > 200
    assert circles({name: imports(path, known) for name, path in known.items()}) == []


def test_a_circle_closed_inside_a_function_is_found(tmp_path: Path) -> None:
    """Two modules of three make the circle; the third stands outside."""
    (tmp_path / "fitting").mkdir()
    for name, text in {
        "__init__": "",
        "one": "from fitting.two import thing",
        "two": "thing = 1\ndef later():\n    from fitting import one",
        "three": "from typing import TYPE_CHECKING\nimport fitting.one\nif TYPE_CHECKING:\n    from fitting.three import x",
    }.items():
        (tmp_path / "fitting" / f"{name}.py").write_text(text)
    known = modules(tmp_path)
    graph = {name: imports(path, known) for name, path in known.items()}
    assert circles(graph) == [{"fitting.one", "fitting.two"}]


MOST_FILES = 14
UNDIVIDED = {"stages", "training/data/sets", "training/regressor"}
"""Folders that show more: the stages side by side, as a run takes them, published sets with one file a set, and the regressor with its
targets and losses."""


def test_a_folder_of_code_is_seen_at_a_glance() -> None:
    packages = {path.parent for path in modules(ROOT).values()} - {ROOT}
    crowded = {
        str(folder.relative_to(ROOT)) for folder in packages if sum(path.name != "__init__.py" for path in folder.glob("*.py")) > MOST_FILES
    }
    assert crowded == UNDIVIDED
