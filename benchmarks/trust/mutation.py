"""`make test-mutation`: small changes of the code, one at a time, of which each should make a test fail.

Written to `benchmarks/results/mutation.json`. The changes are cosmic-ray's (a number one up or down, + for -, < for >=, a condition
negated ...), a seeded sample of each module's. A process that has loaded the heavy packages forks once a change and runs the module's own
tests on a copy of the tree, so that a change costs seconds. One that no test notices is listed with its line, to be read: some change
nothing that can be seen.
"""

import argparse
import ast
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import describe

ROOT = Path(__file__).resolve().parents[2]
RESULT = ROOT / "benchmarks" / "results" / "mutation.json"
FUSION = ("tests/stages/fusion", "tests/stages/test_fuse_hands.py", "tests/stages/test_refused_hands.py")
MODULES: Mapping[str, Sequence[str]] = {
    "fitting/losses.py": ("tests/fitting/test_losses.py", "tests/fitting/test_fit.py"),
    "stages/fusion/association.py": FUSION,
    "stages/fusion/calibration.py": ("tests/pipeline/evaluate/test_calibrate.py", *FUSION),
    "stages/fusion/landmark_score.py": FUSION,
    "stages/fusion/people.py": FUSION,
    "stages/fusion/sides.py": FUSION,
    "stages/fusion/tracks.py": FUSION,
    "stages/fusion/wrists.py": FUSION,
    "training/detector/losses.py": ("tests/training/detector/test_losses.py",),
    "training/detector/objective.py": ("tests/training/detector/test_losses.py",),
    "training/regressor/losses.py": ("tests/training/regressor/test_losses.py",),
    "training/regressor/objective.py": ("tests/training/regressor/test_losses.py",),
    "training/regressor/refinement.py": ("tests/training/regressor/test_refinement.py", "tests/training/regressor/test_network.py"),
    "hands/metrics/clip_labels.py": ("tests/hands/test_clips.py",),
    "hands/metrics/detections.py": ("tests/hands/test_detections.py",),
    "hands/metrics/hands.py": ("tests/hands/test_hands.py",),
    "hands/metrics/labelled_clips.py": ("tests/hands/test_clips.py",),
    "hands/metrics/labelled_frames.py": ("tests/pipeline/evaluate", "tests/hands/test_detections.py"),
    "hands/metrics/labels.py": ("tests/hands", "tests/pipeline/evaluate"),
    "hands/metrics/motion.py": ("tests/hands/test_motion.py",),
    "training/data/order.py": ("tests/training/data/test_order.py",),
}
"""The tests that answer for each module."""
_SWAPS = ("Add_Sub", "Sub_Add", "Mul_Div", "Div_Mul", "Pow_Mul", "FloorDiv_Mul", "Mod_Add", "BitAnd_BitOr", "BitOr_BitAnd")
_COMPARISONS = ("Lt_GtE", "LtE_Gt", "Gt_LtE", "GtE_Lt", "Lt_LtE", "Gt_GtE", "LtE_Lt", "GtE_Gt", "Eq_NotEq", "NotEq_Eq")
OPERATORS = (
    *(f"core/ReplaceBinaryOperator_{swap}" for swap in _SWAPS),
    *(f"core/ReplaceComparisonOperator_{swap}" for swap in _COMPARISONS),
    *("core/NumberReplacer", "core/AddNot", "core/ReplaceAndWithOr", "core/ReplaceOrWithAnd", "core/ReplaceUnaryOperator_Delete_USub"),
    *("core/ReplaceTrueWithFalse", "core/ReplaceFalseWithTrue", "core/ZeroIterationForLoop"),
)
_MOST_CPU_S = 240
"""Of one run of a module's tests as it is; a changed one may take thrice of what that took."""


@dataclass(frozen=True, slots=True)
class Change:
    """A module as one change leaves it."""

    operator: str
    line: int
    was: str
    becomes: str
    source: str


def changes_of(source: str) -> Iterator[Change]:
    """Every change of a module that alters what runs; those of texts, annotations and decorators are none."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    plain = _meaning(source)
    for name in OPERATORS:
        operator, number = get_operator(name)(), 0
        while (mutated := mutate_code(source, operator, number)) is not None:
            number += 1
            if _meaning(mutated) == plain:
                continue
            lines = zip(source.splitlines(), mutated.splitlines(), strict=False)
            line, (was, becomes) = next((k, pair) for k, pair in enumerate(lines, 1) if pair[0] != pair[1])
            yield Change(name.removeprefix("core/"), line, was.strip(), becomes.strip(), mutated)


def _meaning(source: str) -> str:
    """The syntax tree without annotations, decorators and texts."""

    class Bare(ast.NodeTransformer):
        def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
            for argument in [*node.args.args, *node.args.kwonlyargs, *node.args.posonlyargs]:
                argument.annotation = None
            node.returns, node.decorator_list = None, []
            return self.generic_visit(node)

        def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
            node.decorator_list = []
            return self.generic_visit(node)

        def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
            node.annotation = ast.Constant(None)
            return self.generic_visit(node)

    return ast.dump(Bare().visit(ast.parse(source)))


def copied(folder: Path) -> Path:
    """A copy of what git tracks, with the weights that lie here."""
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    for name in filter(None, tracked):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    if (ROOT / "weights").exists():
        (folder / "weights").symlink_to((ROOT / "weights").resolve())
    return folder


def notice(tree: Path, tests: Sequence[str], limit_s: int) -> tuple[bool, float]:
    """Whether the tests fail on the tree as it is, or need more than so much processor time; and what they took, seconds.

    A child does it that is forked from here.
    """
    child = os.fork()
    if not child:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_CPU, (limit_s, limit_s))
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        os.chdir(tree)
        sys.path[:] = [str(tree), *(path for path in sys.path if Path(path or ".").resolve() != ROOT)]
        os.environ |= {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
        sys.dont_write_bytecode = True
        import pytest

        words = ["-x", "-q", "-p", "no:cacheprovider", "-m", "not gpu and not network and not heavy and not cluster and not long"]
        os._exit(int(pytest.main([*words, *tests])))
    _, status, used = os.wait4(child, 0)
    return status != 0, used.ru_utime + used.ru_stime


def measure(module: str, tree: Path, num: int, rng: random.Random, end: float) -> dict[str, Any] | None:
    """The sample's changes of one module. None where its tests fail as it is, or the time is up."""
    path, tests = tree / module, MODULES[module]
    source = path.read_text()
    every = list(changes_of(source))
    chosen = rng.sample(every, min(num, len(every)))
    failed, took_s = notice(tree, tests, _MOST_CPU_S)
    if failed:
        print(f"{module}: its tests fail as it is", file=sys.stderr)
        return None
    found: list[tuple[Change, bool]] = []
    try:
        for change in chosen:
            if time.monotonic() > end:
                break
            path.write_text(change.source)
            found.append((change, notice(tree, tests, round(10 + 3 * took_s))[0]))
    finally:
        path.write_text(source)
    survivors = [change for change, noticed in found if not noticed]
    print(f"{module}: {len(found) - len(survivors)} of {len(found)} noticed", flush=True)
    return {
        "num_changes": len(every),
        "num_tried": len(found),
        "num_noticed": len(found) - len(survivors),
        "survivors": [f"{c.line}: {c.was}  ->  {c.becomes}" for c in survivors],
    }


def main() -> None:
    """Measure, and write the file after every module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--per-module", type=int, default=8, help="changes of each module, drawn at random")
    parser.add_argument("--minutes", type=float, default=45.0, help="begin no further change after so long")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("modules", nargs="*", default=[], help="of the table (default: all)")
    parser.add_argument("--out", type=Path, default=RESULT)
    asked = parser.parse_args()
    import cv2  # noqa: F401  what every child would load again
    import pyarrow.parquet  # noqa: F401
    import pytest  # noqa: F401
    import scipy.spatial  # noqa: F401
    import torch

    torch.set_num_threads(1)
    end, machine, modules = time.monotonic() + 60 * asked.minutes, describe(), asked.modules or list(MODULES)
    before = json.loads(asked.out.read_text()) if asked.modules and asked.out.exists() else {}
    found: dict[str, Any] = before.get("modules", {})
    with tempfile.TemporaryDirectory() as folder:
        tree = copied(Path(folder))
        for module in modules:
            rng = random.Random(f"{asked.seed} {module}")
            if measured := measure(module, tree, asked.per_module, rng, end):
                found[module] = measured
                tried, noticed = (sum(of[name] for of in found.values()) for name in ("num_tried", "num_noticed"))
                content = {
                    "score": {name: round(of["num_noticed"] / max(of["num_tried"], 1), 4) for name, of in found.items()},
                    "score_of_all": round(noticed / max(tried, 1), 4),
                    "sample": f"{tried} of {sum(of['num_changes'] for of in found.values())} changes, seed {asked.seed}",
                    "machine": machine,
                    "modules": found,
                }
                asked.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
