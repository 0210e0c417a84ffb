"""The score of a landmark that second looks give: learned and measured, on hands that were judged by eye.

    python -m pipeline.evaluate.landmarks learn --labels tests/data/landmarks/landmarks.jsonl --media MEDIA [--pictures PICTURES]
    python -m pipeline.evaluate.landmarks evaluate --json --labels ... --media ...

A label is of one hand's landmarks as they were found: `right`, `wrong` (grossly: another hand's, another pose, no hand) or `partly`, with
the names of those that are not where they should be. Groups (a video, a source of pictures) are split: what is learned on one half is
reported on the other. Landmarks outside the frame are judged with nobody.
"""

import argparse
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float64, UInt8
from rich.console import Console

from hands.images import read_image
from stages.detectors.mediapipe.hand_landmarks import load_hand_landmarks
from stages.detectors.mediapipe.second_looks import SECOND_LOOKS, look_again, spread
from stages.fusion.landmark_score import FLOOR, LEARNED, LandmarkScore, features_of, is_inside, load_landmark_score
from stages.media.frames import images_of
from stages.review import Review
from stages.tables import HAND_KEYPOINTS

FORMAT = "whim-landmarks/1"
VERDICTS = ("right", "partly", "wrong")
SPLITS = ("learn", "report")
NUM_FOLDS = 5
REGULARISATION = 0.3
"""scikit-learn's C. Ours."""


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class JudgedHand:
    """A hand's landmarks, and whether they are right."""

    file: Path
    frame: int  # in decode order; 0 of a picture
    verdict: str
    wrong: Bool[np.ndarray, "21"]  # which landmarks
    split: str  # learn or report
    group: str  # a video or a source of pictures
    even: bool  # drawn evenly from what is kept, not for its doubt
    palm_score: float
    length_px: float
    points: Float64[np.ndarray, "21 2"]


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Looked:
    """Judged hands, and what second looks say of them."""

    hands: Sequence[JudgedHand]
    spread: Float64[np.ndarray, "n 21"]
    features: Float64[np.ndarray, "n 2"]
    inside: Bool[np.ndarray, "n 21"]

    def column(self, name: str) -> np.ndarray:
        """An attribute of every hand."""
        return np.array([getattr(hand, name) for hand in self.hands])


def load_judged(path: Path, roots: Mapping[str, Path | None]) -> list[JudgedHand]:
    """Hands of a label file; those below a root that is not here (None) are left out.

    Raises ValueError with one line for each fault: a line that is none, an unknown name, a file that is missing or another one.
    """
    hands, faults = [], []
    digests: dict[Path, str] = {}
    first, *lines = path.read_bytes().splitlines() or [b""]
    if FORMAT.encode() not in first:
        raise ValueError(f'{path}:1: wanted {{"format": "{FORMAT}"}} first')
    for number, line in enumerate(lines, 2):
        try:
            item = json.loads(line)
            root = roots[item["root"]]
            if root is None:
                continue
            file = root / item["file"]
            if file not in digests:
                digests[file] = hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""
            if digests[file] != item["sha256"]:
                raise ValueError(f"{file} is {'another file than the one that was labelled' if digests[file] else 'not there'}")
            hands.append(_judged(item, file))
        except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
            faults.append(f"{path}:{number}: {error!r}" if isinstance(error, KeyError) else f"{path}:{number}: {error}")
    if faults:
        raise ValueError("\n".join(faults))
    return hands


def _judged(item: Mapping[str, Any], file: Path) -> JudgedHand:
    unknown = {item["verdict"]} - {*VERDICTS} | {item["split"]} - {*SPLITS} | {*item["wrong"]} - {*HAND_KEYPOINTS}
    if unknown:
        raise ValueError(f"unknown verdict, split or keypoint: {', '.join(sorted(unknown))}")
    wrong = np.isin(HAND_KEYPOINTS, item["wrong"]) | (item["verdict"] == "wrong")
    if wrong.any() == (item["verdict"] == "right"):
        raise ValueError(f"a hand that is {item['verdict']} cannot have {int(wrong.sum())} wrong keypoints")
    return JudgedHand(
        file=file,
        frame=int(item["frame"]),
        verdict=item["verdict"],
        wrong=wrong,
        split=item["split"],
        group=str(item["group"]),
        even=item["sampled"] == "even",
        palm_score=float(item["palm_score"]),
        length_px=float(item["length_px"]),
        points=np.array(item["keypoints"], np.float64).reshape(21, 2),
    )


def look(hands: Sequence[JudgedHand]) -> Looked:
    """Look at every hand again, as the detector does."""
    find = load_hand_landmarks()
    seen: list[tuple[JudgedHand, np.ndarray, np.ndarray, np.ndarray]] = []
    for hand, image in _images(hands):
        height, width = image.shape[:2]
        (again,) = look_again(image, [hand.points], find, SECOND_LOOKS)
        apart = spread(hand.points, again, hand.length_px, width, height)
        features = features_of(hand.points[None], apart[None], np.array([hand.palm_score]), width, height)[0]
        seen.append((hand, apart, features, is_inside(hand.points, width, height)))
    who, apart, features, inside = zip(*seen, strict=True)
    return Looked(hands=who, spread=np.stack(apart), features=np.stack(features), inside=np.stack(inside))


def _images(hands: Sequence[JudgedHand]) -> Iterator[tuple[JudgedHand, UInt8[np.ndarray, "height width 3"]]]:
    import cv2

    for file, of_file in groupby(sorted(hands, key=lambda hand: (hand.file, hand.frame)), key=lambda hand: hand.file):
        waiting = list(of_file)
        image = read_image(file, cv2.IMREAD_COLOR) if file.suffix in (".jpg", ".jpeg", ".png") else None
        if image is not None:
            yield from ((hand, np.ascontiguousarray(image[..., ::-1])) for hand in waiting)
            continue
        for number, (_, pixels) in enumerate(images_of(file)):
            yield from ((hand, pixels) for hand in waiting if hand.frame == number)


def learn(looked: Looked, rows: Bool[np.ndarray, "n"]) -> LandmarkScore:
    """The two logistic models of these rows."""
    right = looked.column("verdict") != "wrong"
    wrong = looked.column("wrong")
    each = np.nonzero(looked.inside & rows[:, None])
    of_each = np.column_stack([np.log(looked.spread[each] + FLOOR), looked.features[each[0]]])
    return LandmarkScore(hand=_weights(looked.features[rows], right[rows]), keypoint=_weights(of_each, ~wrong[each]))


def _weights(features: Float64[np.ndarray, "n k"], right: Bool[np.ndarray, "n"]) -> Float64[np.ndarray, "_"]:
    """Constant and weights of a logistic regression on features that are brought to one scale for it."""
    from sklearn.linear_model import LogisticRegression

    middle, scale = features.mean(0), features.std(0) + 1e-9
    model = LogisticRegression(C=REGULARISATION).fit((features - middle) / scale, right)
    weights = model.coef_[0] / scale
    return np.array([model.intercept_[0] - weights @ middle, *weights], np.float64)


def figures(
    looked: Looked,
    of_hand: Float[np.ndarray, "n"],
    of_keypoint: Float[np.ndarray, "n 21"],
    rows: Bool[np.ndarray, "n"],
    *,
    least: float,
) -> dict[str, float | int]:
    """How well scores tell wrong from right on some rows; shares of what is kept are of hands that were drawn evenly."""
    wrong = looked.column("verdict") == "wrong"
    even, keeps = rows & looked.column("even"), of_hand >= least
    each = looked.inside & rows[:, None]
    return {
        "num_hands": int(rows.sum()),
        "num_wrong": int(wrong[rows].sum()),
        "auc": _auc(of_hand[rows], ~wrong[rows]),
        "keypoint_auc": _auc(of_keypoint[each], ~looked.column("wrong")[each]),
        "grossly_wrong": _share(wrong[even]),
        "grossly_wrong_kept": _share(wrong[even & keeps]),
        "right_kept": _share(keeps[even & ~wrong]),
        "keypoint_calibration_error": round(float(np.abs(of_keypoint[each].mean() - (~looked.column("wrong")[each]).mean())), 4),
    }


def evaluate(looked: Looked, score: LandmarkScore, *, least: float | None = None) -> dict[str, Any]:
    """Figures on what the score was not learned on, and those of models that saw nothing of a hand's group, over all hands."""
    least = Review().min_landmark_score if least is None else least
    report = looked.column("split") == "report"
    told = figures(looked, score.of_hands(looked.features), score.of_keypoints(looked.spread, looked.features), report, least=least)
    if len({hand.group for hand in looked.hands if hand.verdict == "wrong"}) < 2:
        return told  # a model that saw nothing of that one group would have seen no wrong hand
    folds = figures(looked, *cross_validated(looked), np.ones(len(looked.hands), bool), least=least)
    return {**told, "cross_validated": folds}


def cross_validated(looked: Looked) -> tuple[Float64[np.ndarray, "n"], Float64[np.ndarray, "n 21"]]:
    """What models say of hands and keypoints whose group they saw nothing of; groups are dealt to five folds, most faults first."""
    group, wrong = looked.column("group"), looked.column("verdict") == "wrong"
    order = sorted(set(group.tolist()), key=lambda one: (-wrong[group == one].sum(), one))
    fold = np.array([order.index(one) % NUM_FOLDS for one in group.tolist()])
    of_hand, of_keypoint = np.zeros(len(group)), np.zeros((len(group), 21))
    for k in np.unique(fold):
        score, rows = learn(looked, fold != k), fold == k
        of_hand[rows] = score.of_hands(looked.features[rows])
        of_keypoint[rows] = score.of_keypoints(looked.spread[rows], looked.features[rows])
    return of_hand, of_keypoint


def _auc(score: np.ndarray, right: np.ndarray) -> float:
    from sklearn.metrics import roc_auc_score

    return round(float(roc_auc_score(right, score)), 4) if 0 < right.sum() < len(right) else float("nan")


def _share(values: np.ndarray) -> float:
    return round(float(values.mean()), 4) if len(values) else float("nan")


def write(looked: Looked, out: Path, labels: Path) -> LandmarkScore:
    """Learn on the half to learn on, and write weights beside the figures of the other half."""
    score = learn(looked, looked.column("split") == "learn")
    content = {
        "hand": {"features": ["log spread", "palm log-odds"], "weights": np.round(score.hand, 4).tolist()},
        "keypoint": {"features": ["log spread of its own", "log spread", "palm log-odds"], "weights": np.round(score.keypoint, 4).tolist()},
        "learned_on": {"labels": labels.name, "sha256": hashlib.sha256(labels.read_bytes()).hexdigest()},
        "report": evaluate(looked, score),
    }
    aside = out.with_name(f".{out.name}.aside")
    aside.write_text(json.dumps(content, indent=1) + "\n")
    aside.replace(out)
    return load_landmark_score(out)


def evaluate_landmarks(labels: Path, media: Path | None, pictures: Path | None = None) -> dict[str, Any]:
    """Figures of the score in use on judged hands; those of a folder that is not given are left out. Raises as `load_judged`."""
    hands = load_judged(labels, {"media": media, "pictures": pictures})
    if not hands:
        raise ValueError(f"{labels}: no hand lies below the folders given")
    return evaluate(look(hands), load_landmark_score())


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=("learn", "evaluate"))
    parser.add_argument("--labels", type=Path, required=True)
    parser.add_argument("--media", type=Path, required=True, help="the folder that files of the root media lie in")
    parser.add_argument("--pictures", type=Path, help="the same for the root pictures; without it they are left out")
    parser.add_argument("--out", type=Path, default=LEARNED, help="where learn writes the weights (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print figures as JSON")
    arguments = parser.parse_args(argv)
    looked = look(load_judged(arguments.labels, {"media": arguments.media, "pictures": arguments.pictures}))
    score = write(looked, arguments.out, arguments.labels) if arguments.what == "learn" else load_landmark_score(arguments.out)
    found = evaluate(looked, score)
    Console(soft_wrap=True).print(json.dumps(found, indent=1) if arguments.json else found)


if __name__ == "__main__":
    main()
