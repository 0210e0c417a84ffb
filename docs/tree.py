"""The README's tree: every file with the first sentence of its docstring. `make readme` writes it, a test holds it."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("fitting", "stages", "stages/detectors", "pipeline", "training", "training/detector", "studio", "benchmarks")
OTHERS = {
    "manifests/whim.txt": "WHIM's 1,457 video ids with split, fps, frames and size",
    "manifests/mediapipe.toml": "the networks of the embedded default: file, sha256, licence",
    "manifests/weights.toml": "the larger networks: where from, sha256, licence, who must agree to what",
    "cluster/": "a GPU cluster on AWS, this machine as a cluster, and an sshd on loopback to test it",
    "docs/": "the shard format for readers, the studio, this tree",
    "tests/": "one folder a package; engine/ holds the engine's promises, chain/ the whole job on real video",
    "constraints.txt": "every pin",
}
BEGIN, END = "<!-- tree -->", "<!-- /tree -->"


def first_sentence(path: Path) -> str:
    """First sentence of a module's docstring, without its full stop."""
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    return re.split(r"(?<!\beq)\.(?:\s|$)", " ".join(text.split()), maxsplit=1)[0]


def tree() -> str:
    """The tree as a Markdown block."""
    lines: list[str] = []
    for folder in FOLDERS:
        depth = folder.count("/")
        lines.append(f"{'    ' * depth}{folder.rsplit('/')[-1]}/".ljust(28) + first_sentence(ROOT / folder / "__init__.py"))
        for path in sorted((ROOT / folder).glob("*.py")):
            if path.name not in ("__init__.py", "__main__.py"):
                lines.append(f"{'    ' * (depth + 1)}{path.name}".ljust(28) + first_sentence(path))
    lines += [name.ljust(28) + text for name, text in OTHERS.items()]
    return "\n".join([BEGIN, "```", *lines, "```", END])


def updated(readme: str) -> str:
    """The README with its tree as it should be."""
    before, rest = readme.split(BEGIN)
    return before + tree() + rest.split(END)[1]


if __name__ == "__main__":
    file = ROOT / "README.md"
    file.write_text(updated(file.read_text()))
