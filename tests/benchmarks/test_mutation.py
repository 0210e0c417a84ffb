"""Verdicts on changes of a module: what is not tried again stays what it was, and the file tells samples apart."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.trust.mutation import of_seed, summary

MODULE = "def half(x):\n    return x / 2\n\n\ndef more(x):\n    return x + 1\n\n\ndef least():\n    return 3\n"
CHANGES = (("x / 2", "x / 3"), ("x + 1", "x + 2"), ("return 3", "return 4"), ("x + 1", "1 + x"))
ASK = """
import json, sys, time
from pathlib import Path
from benchmarks.trust.changes import Change
from benchmarks.trust.mutation import verdicts_on

tree, source, changes, asked = json.loads(sys.argv[1])
found = [Change("", 1, was, becomes, source.replace(was, becomes)) for was, becomes in changes]
told = []
for before, equal, seconds in asked:
    end = time.monotonic() + seconds
    told.append(verdicts_on(found, Path(tree), "numbers_of_ours.py", ["test_it.py"], equal=equal, before=before, end=end))
print(json.dumps(told))
"""


def verdicts(tree: Path, test: str, *asked: tuple[str, Sequence[str], int]) -> Any:
    """Verdicts on `CHANGES` by a test, each time with those before, the changes that show nothing and the seconds there are."""
    (tree / "numbers_of_ours.py").write_text(MODULE)
    (tree / "test_it.py").write_text(f"import numbers_of_ours as ours\n\n\ndef test_it():\n    assert {test}\n")
    words = [sys.executable, "-c", ASK, json.dumps([str(tree), MODULE, CHANGES, asked])]
    done = subprocess.run(words, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_change_that_is_not_tried_stays_what_it_was(tmp_path: Path) -> None:
    same = ["x + 1  ->  1 + x"]
    assert verdicts(tmp_path, "ours.half(4) == 2", ("", same, 3600)) == ["+--="]
    told = verdicts(
        tmp_path,
        "ours.more(4) == 5",
        ("+-?=", same, -1),  # no time left
        ("+-?=", [], 3600),  # what was noticed is not tried again, what was said to show nothing is one like the others
    )
    assert told == ["+-?=", "++--"]


def test_tests_that_fail_without_a_change_tell_nothing(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"numbers_of_ours\.py: its tests fail as it is"):
        verdicts(tmp_path, "ours.half(4) == 3", ("+-?=", [], 3600))


def test_scores_are_of_all_samples_and_what_a_sample_showed_at_first_is_kept() -> None:
    def told(noticed: int, at_first: int) -> dict[str, Any]:
        return {"num_changes": 50, "num_tried": 20, "num_noticed": noticed, "at_first": [at_first, 20]}

    first = of_seed({"fitting/losses.py": told(20, 15), "stages/fusion/views.py": told(18, 18)}, {})
    second = of_seed({"fitting/losses.py": told(16, 10)}, {})
    assert (first["score_of_all"], first["score_at_first"], first["sample"]) == (0.95, 0.825, "40 of 100 changes")
    assert (second["score_of_all"], second["score_at_first"]) == (0.8, 0.5)
    content = summary({"0": first, "1": second})
    assert content["score"] == {"fitting/losses.py": 0.9, "stages/fusion/views.py": 0.9}
    assert content["score_of_all"] == 0.9
