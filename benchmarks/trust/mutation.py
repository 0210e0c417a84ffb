"""`make test-mutation`: small changes of the code, one at a time, of which each should make a test fail.

Written to `benchmarks/results/mutation.json`. The changes are cosmic-ray's, a seeded sample of each module's, tried by `trials.py` on a
copy of the tree. One that no test notices is listed with its line, to be read: some change nothing that can be seen, and those that
were found to are named with the reason in `equal_changes.json` and count neither way.
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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine import describe
from benchmarks.trust.changes import sample
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
    "stages/fusion/pairs.py": ("tests/stages/test_two_hands.py", "-k", "not backends"),
    "stages/fusion/people.py": ("tests/stages/fusion/test_people.py",),
    "stages/fusion/sides.py": ("tests/stages/fusion/test_sides.py",),
    "stages/fusion/synchrony.py": ("tests/stages/test_hands_of_whim.py", "-k", "by_hand or still_hand"),
    "stages/fusion/together.py": ("tests/stages/test_two_hands.py", "-k", "not backends"),
    "stages/fusion/tracks.py": ("tests/stages/fusion/test_links.py", "tests/stages/fusion/test_tracks.py"),
    "stages/fusion/views.py": ("tests/stages/fusion/test_views.py",),
    "stages/fusion/wrists.py": ("tests/stages/fusion/test_wrists.py",),
}
"""The tests that answer for each module."""


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


def measure(module: str, tree: Path, num: int, rng: random.Random, end: float, before: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The sample's changes of one module; where the same were tried before on the same code, those alone that no test noticed then.

    None where the module's tests fail as it is, or the time is up.
    """
    source, equal = (tree / module).read_text(), json.loads(EQUAL.read_text()).get(module, {})
    chosen, num_changes = sample(source, num, rng)
    others = [change for change in chosen if change.text not in equal]
    digest = hashlib.sha256(f"{num} {source}".encode()).hexdigest()[:16]
    known = [change for change in others if before and before.get("digest") == digest and str(change) not in before["survivors"]]
    open_ones = [change for change in others if change not in known]
    noticed = trials(tree, module, open_ones, MODULES[module], end) if open_ones else []
    if isinstance(noticed, str) or (open_ones and not noticed):
        print(f"{module}: {noticed or 'no time left'}", file=sys.stderr)
        return None
    survivors = [str(change) for change, seen in zip(open_ones, noticed, strict=False) if not seen]
    num_tried = len(known) + len(noticed)
    print(f"{module}: {num_tried - len(survivors)} of {num_tried} noticed", *survivors, sep="\n  ", flush=True)
    return {
        "num_changes": num_changes,
        "num_tried": num_tried,
        "num_noticed": num_tried - len(survivors),
        "num_equal": len(chosen) - len(others),
        "survivors": survivors,
        "digest": digest,
    }


def main() -> None:
    """Measure, and write the file after every module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--per-module", type=int, default=40, help="changes of each module, drawn at random")
    parser.add_argument("--minutes", type=float, default=45.0, help="begin no further change after so long")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--survivors", action="store_true", help="of a module that is as it was, try those alone that no test noticed")
    parser.add_argument("modules", nargs="*", default=[], help="of the table (default: all)")
    parser.add_argument("--out", type=Path, default=RESULT)
    asked = parser.parse_args()
    import cv2  # noqa: F401  what every child would load again
    import pyarrow.parquet  # noqa: F401
    import scipy.spatial.transform  # noqa: F401
    import torch

    torch.set_num_threads(1)
    end, machine, modules = time.monotonic() + 60 * asked.minutes, describe(), asked.modules or list(MODULES)
    before = json.loads(asked.out.read_text()) if (asked.modules or asked.survivors) and asked.out.exists() else {}
    found: dict[str, Any] = before.get("modules", {})
    with tempfile.TemporaryDirectory() as folder:
        tree = copied(Path(folder).resolve())
        for module in modules:
            rng = random.Random(f"{asked.seed} {module}")
            if measured := measure(module, tree, asked.per_module, rng, end, found.get(module) if asked.survivors else None):
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
