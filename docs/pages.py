"""The documentation as a site, from `docs/*.md` and from the code: what MkDocs calls while it builds (`make docs`).

README, CHANGELOG and CONTRIBUTING become pages; the references of tables, settings and commands are made from what the code itself says.
"""

import ast
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"(!?)\[([^\]]+)\]\((?!https?:|#)([^)#\s]+)(#[^)]*)?\)")
PAGES = {"index.md": "README.md", "changelog.md": "CHANGELOG.md", "contributing.md": "CONTRIBUTING.md"}


def on_files(files: "Files", config: "MkDocsConfig") -> "Files":
    """Add the pages that lie elsewhere or in the code."""
    from mkdocs.structure.files import File

    made: Mapping[str, Callable[[], str]] = {
        **{page: (ROOT / source).read_text for page, source in PAGES.items()},
        "reference/tables.md": tables,
        "reference/settings.md": settings,
        "reference/commands.md": commands,
    }
    for page, content in made.items():
        files.append(File.generated(config, page, content=content()))
    return files


def on_page_markdown(markdown: str, page: "Page", config: "MkDocsConfig", files: "Files") -> str:
    """Links as the site needs them; what lies outside of it is named instead of linked."""
    here = ROOT if page.file.src_uri in PAGES else ROOT / "docs" / Path(page.file.src_uri).parent
    return LINK.sub(lambda link: _link(link, here), markdown)


def _link(link: re.Match[str], here: Path) -> str:
    picture, text, target, anchor = link.groups(default="")
    path = (here / target).resolve()
    pages = {ROOT / source: page for page, source in PAGES.items()}
    if path in pages:
        return f"[{text}](/{pages[path]}{anchor})"
    if path.is_relative_to(ROOT / "docs") and path.suffix != ".py":
        return f"{picture}[{text}](/{path.relative_to(ROOT / 'docs')}{anchor})"
    return text if text.startswith("`") else f"`{text}`"


def tables() -> str:
    """Every table and column with its Arrow type and comment, from `stages/tables.py`."""
    from stages import tables as schema

    source = (ROOT / "stages" / "tables.py").read_text()
    module = ast.parse(source)
    parts = [
        "# Tables",
        ast.get_docstring(module) or "",
        "A data folder holds them as Parquet, one file a part; training reads [the shards](../shards.md).",
    ]
    for node in module.body:
        if isinstance(node, ast.ClassDef) and node.name != "Table":
            table = getattr(schema, node.name)
            types = {field.name: field.type for field in table.schema()}
            rows = [f"| `{name}` | {types[name]} | {_cell(text)} |" for name, text in _columns(node, source.splitlines())]
            inherited = [name for name in types if f"| `{name}` |" not in "\n".join(rows)]
            base = node.bases[0].id if inherited and isinstance(node.bases[0], ast.Name) else ""
            parts += [f"## {node.name}", ast.get_docstring(node) or ""]
            parts += [f"All columns of [{base}](#{base.lower()}), and:"] if base else []
            parts.append("\n".join(["| column | type | what |", "|---|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"


def _columns(node: ast.ClassDef, lines: list[str]) -> Iterator[tuple[str, str]]:
    """Names of the columns, with the comment behind each."""
    for field in node.body:
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            line = lines[(field.end_lineno or field.lineno) - 1]
            yield field.target.id, line[field.end_col_offset :].partition("#")[2].strip()


def settings() -> str:
    """Every setting of every stage and training, from the dataclasses and their docstrings."""
    from pipeline.stage_settings import shown
    from stages.settings import settings_of
    from training.recipes import DETECTORS, REGRESSORS

    how = "`whim run --set stage.name=value`, or as TOML: a table a stage. `whim settings` prints the same."
    parts = ["# Settings", how, "## The dataset", _grid(shown(None, None))]
    for task, recipe_of in (("detector", DETECTORS["detector_s"]), ("regressor", REGRESSORS["regressor_h"])):
        parts += [
            f"## Training the {task}",
            "Set by `--set name=value` where it is trained.",
            _grid({one.name: one for one in settings_of(recipe_of())}),
        ]
    return "\n\n".join(parts) + "\n"


def _grid(named: Mapping[str, Any]) -> str:
    from stages.settings import kind_name, value_text

    rows = ["| setting | value | what |", "|---|---|---|"]
    for name, setting in named.items():
        allowed = f"{kind_name(setting.kind)}; must {setting.bounds}" if setting.bounds else kind_name(setting.kind)
        rows.append(f"| `{name}` | {_cell(value_text(setting.value))} | {_cell(f'{setting.text} [{allowed}]')} |")
    return "\n".join(rows)


def commands() -> str:
    """Every command with its options, from the one parser."""
    import whim

    parts = ["# Commands", "What `whim COMMAND --help` prints."]
    for name, parser in sorted(whim.build_commands().known.items()):
        parts += [f"## whim {name}", f"```text\n{parser.format_help().strip()}\n```"]
    return "\n\n".join(parts) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split()) or "\u2014"
