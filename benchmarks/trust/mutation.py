"""`make test-mutation`: small changes of the code, one at a time, of which each should make a test fail.

Written to `benchmarks/results/mutation.json`, by the seed that the sample was drawn with. The changes are cosmic-ray's, a seeded sample of
each module's, tried by `trials.py` on a copy of the tree. One that no test notices is listed with its line, to be read: some change nothing
that can be seen, and those that were found to are named with the reason in `equal_changes.json` and count neither way. Tests that are
written for what a sample showed say nothing of it any more: `at_first` keeps what was noticed of it when it was tried first.
"""

import argparse
import hashlib
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine import describe
from benchmarks.trust.changes import Change, sample
from benchmarks.trust.trials import trials

ROOT = Path(__file__).resolve().parents[2]
RESULT = ROOT / "benchmarks" / "results" / "mutation.json"
EQUAL = Path(__file__).with_name("equal_changes.json")
"""Changes that no test can see, by module: the line before and after, and the reason."""
FORMATS = "tests/pipeline/images/test_formats.py::test_"
ALONE = ("-k", "not another_process and not ranks_share")
"""Without the tests that start processes of their own: what they hold of the numbers, others hold too."""
MODULES: Mapping[str, Sequence[str]] = {
    "hands/metrics/clip_labels.py": ("tests/hands/test_clips.py",),
    "hands/metrics/detections.py": ("tests/hands/test_detections.py",),
    "hands/metrics/foreign_labels.py": ("tests/hands/test_foreign_labels.py", f"{FORMATS}coco_says_sides_and_keypoints", f"{FORMATS}coco"),
    "hands/metrics/hands.py": ("tests/hands/test_hands.py",),
    "hands/metrics/labelled_clips.py": ("tests/hands/test_clips.py",),
    "hands/metrics/labelled_frames.py": ("tests/hands/test_labels.py",),
    "hands/metrics/labels.py": ("tests/hands/test_labels.py", "tests/hands/test_detections.py"),
    "hands/metrics/motion.py": ("tests/hands/test_motion.py",),
    "training/data/order.py": ("tests/training/data/test_order.py", *ALONE),
    "training/detector/losses.py": ("tests/training/detector/test_losses.py", *ALONE),
    "training/detector/objective.py": ("tests/training/detector/test_losses.py", *ALONE),
    "training/regressor/losses.py": ("tests/training/regressor/test_losses.py",),
    "training/regressor/objective.py": ("tests/training/regressor/test_losses.py",),
    "training/regressor/refinement.py": ("tests/training/regressor/test_refinement.py",),
    "fitting/losses.py": ("tests/fitting/test_losses.py",),
    "stages/fusion/association.py": ("tests/stages/fusion/test_association.py",),
    "stages/fusion/calibration.py": ("tests/stages/fusion/test_calibration.py",),
    "stages/fusion/landmark_score.py": ("tests/stages/fusion/test_landmark_score.py",),
    "stages/fusion/links.py": ("tests/stages/fusion/test_links.py", "tests/stages/fusion/test_tracks.py"),
    "stages/fusion/pairs.py": ("tests/stages/test_two_hands.py", "-k", "pair_is_two or contradiction_is"),
    "stages/fusion/people.py": ("tests/stages/fusion/test_people.py",),
    "stages/fusion/sides.py": ("tests/stages/fusion/test_sides.py",),
    "stages/fusion/synchrony.py": ("tests/stages/test_hands_of_whim.py", "-k", "by_hand or still_hand"),
    "stages/fusion/together.py": ("tests/stages/fusion/test_together.py", "tests/stages/test_two_hands.py", "-k", "not backends"),
    "stages/fusion/tracks.py": ("tests/stages/fusion/test_links.py", "tests/stages/fusion/test_tracks.py"),
    "stages/fusion/views.py": ("tests/stages/fusion/test_views.py",),
    "stages/fusion/wrists.py": ("tests/stages/fusion/test_wrists.py",),
}
"""The tests that answer for each module."""
NOTICED, UNNOTICED, EQUAL_TO_IT, UNTRIED = "+-=?"
"""Verdicts on a change."""


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


def verdicts_on(
    changes: Sequence[Change], tree: Path, module: str, tests: Sequence[str], *, equal: Container[str], before: str, end: float
) -> str:
    """Verdicts on the changes of a module, a letter each, in their order.

    What was noticed `before` stays so and is not tried again ('': nothing is known). Of all others, those first that no test noticed, as
    many are tried as there is time for; those that are not reached are what they were. RuntimeError where the tests fail without a change.
    """
    verdicts = [EQUAL_TO_IT if change.text in equal else UNTRIED for change in changes]
    for k, was in enumerate(before):
        verdicts[k] = was if verdicts[k] == UNTRIED and was != EQUAL_TO_IT else verdicts[k]
    open_ones = [k for which in (UNNOTICED, UNTRIED) for k, verdict in enumerate(verdicts) if verdict == which]
    seen = trials(tree, module, [changes[k] for k in open_ones], tests, end) if open_ones else []
    if isinstance(seen, str):
        raise RuntimeError(f"{module}: {seen}")
    for k, noticed in zip(open_ones, seen, strict=False):
        verdicts[k] = NOTICED if noticed else UNNOTICED
    return "".join(verdicts)


def measure(module: str, tree: Path, num: int, seed: int, end: float, before: Mapping[str, Any] | None, survivors: bool) -> dict[str, Any]:
    """Verdicts on a sample of changes of a module; with `survivors` one that was noticed before, in the same code, is not tried again."""
    source, equal = (tree / module).read_text(), json.loads(EQUAL.read_text()).get(module, {})
    changes, num_changes = sample(source, num, random.Random(f"{seed} {module}"))
    digest = hashlib.sha256(f"{num} {source}".encode()).hexdigest()[:16]
    known = before["verdicts"] if survivors and before and before["digest"] == digest else ""
    verdicts = verdicts_on(changes, tree, module, MODULES[module], equal=equal, before=known, end=end)
    unnoticed = [str(change) for change, verdict in zip(changes, verdicts, strict=True) if verdict == UNNOTICED]
    num_noticed, num_tried = verdicts.count(NOTICED), verdicts.count(NOTICED) + len(unnoticed)
    print(f"{module}: {num_noticed} of {num_tried} noticed", *unnoticed, sep="\n  ", flush=True)
    return {
        "num_changes": num_changes,
        "num_tried": num_tried,
        "num_noticed": num_noticed,
        "num_equal": verdicts.count(EQUAL_TO_IT),
        "at_first": before["at_first"] if before else [num_noticed, num_tried],
        "survivors": unnoticed,
        "verdicts": verdicts,
        "digest": digest,
    }


def score(modules: Sequence[Mapping[str, Any]]) -> float:
    """Share of the changes tried that were noticed."""
    return round(sum(of["num_noticed"] for of in modules) / max(sum(of["num_tried"] for of in modules), 1), 4)


def summary(seeds: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The content of the file: scores over all samples, and what was found of each."""
    found = [of["modules"] for of in seeds.values()]
    return {
        "score": {name: score([of[name] for of in found if name in of]) for name in MODULES if any(name in of for of in found)},
        "score_of_all": score([one for of in found for one in of.values()]),
        "seeds": seeds,
    }


def of_seed(modules: Mapping[str, Mapping[str, Any]], machine: Mapping[str, Any]) -> dict[str, Any]:
    """Scores of one sample of changes over all modules, with the modules they are of."""
    noticed, tried = (sum(of["at_first"][k] for of in modules.values()) for k in (0, 1))
    return {
        "score_of_all": score([*modules.values()]),
        "score_at_first": round(noticed / max(tried, 1), 4),
        "sample": f"{sum(of['num_tried'] for of in modules.values())} of {sum(of['num_changes'] for of in modules.values())} changes",
        "machine": machine,
        "modules": modules,
    }


def seeds_of(file: Path) -> dict[str, Any]:
    """Samples that a file of results holds, by the seed that drew them."""
    return json.loads(file.read_text()).get("seeds", {}) if file.exists() else {}


def told_of(file: Path, seed: str) -> dict[str, Any]:
    """Verdicts on modules that a file of results holds, of the sample of one seed."""
    return dict(seeds_of(file).get(seed, {}).get("modules", {}))


def main() -> None:
    """Measure, and write the file after every module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--per-module", type=int, default=40, help="changes of each module, drawn at random")
    parser.add_argument("--minutes", type=float, default=45.0, help="begin no further change after so long")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--survivors", action="store_true", help="of a module that is as it was, try those alone that no test has noticed")
    parser.add_argument("modules", nargs="*", default=[], help="of the table (default: all)")
    parser.add_argument("--out", type=Path, default=RESULT)
    asked = parser.parse_args()
    import cv2  # noqa: F401  what every child would load again
    import pyarrow.parquet  # noqa: F401
    import scipy.spatial.transform  # noqa: F401
    import torch

    torch.set_num_threads(1)
    end, seed, machine = time.monotonic() + 60 * asked.minutes, str(asked.seed), describe()
    failed: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        tree = copied(Path(folder).resolve())
        for module in asked.modules or list(MODULES):
            if time.monotonic() > end:
                sys.exit(f"the time was up before {module}: of it and those after it the file tells what it did")
            try:
                told = measure(module, tree, asked.per_module, asked.seed, end, told_of(asked.out, seed).get(module), asked.survivors)
            except RuntimeError as error:
                failed.append(str(error))
                continue
            known = of_seed(told_of(asked.out, seed) | {module: told}, machine)  # another run may have written meanwhile
            asked.out.write_text(json.dumps(summary(seeds_of(asked.out) | {seed: known}), indent=1) + "\n")
    if failed:
        sys.exit("\n".join(failed))


if __name__ == "__main__":
    main()
