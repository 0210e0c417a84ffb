"""Recipes of whole runs, each a function that returns the stages with every value that is not a default."""

import math
from collections.abc import Callable
from pathlib import Path

from fitting.settings import FitSettings
from pipeline.members import hand_detectors, say_uncalibrated, with_weights
from stages.detect_hands_contacthands import DetectHandsContactHands
from stages.detect_hands_mediapipe import DetectHands
from stages.detect_hands_openpose import DetectHandsOpenPose
from stages.detect_hands_whim import DetectHandsWhim
from stages.detect_people_blazepose import DetectPeople
from stages.detect_people_movenet import DetectPeopleMoveNet
from stages.detect_person_boxes import DetectPersonBoxes
from stages.download import Download
from stages.estimate_poses_alphapose import EstimatePosesAlphaPose
from stages.estimate_poses_vitpose import EstimatePoses
from stages.fit import Fit
from stages.fuse_hands import FuseHands
from stages.fuse_people import FusePeople
from stages.hands_of_poses import HandsOfPoses
from stages.hands_of_whim import HandsOfWhim
from stages.pack import Pack
from stages.people_of_poses import PeopleOfPoses
from stages.propose_hands_whim import ProposeHands
from stages.review import Review
from stages.settings import function_of_file, unknown
from stages.split import Split
from stages.stage import Stage
from stages.tables import HandDetections, Manifest

Recipe = Callable[[Manifest, Path], list[Stage]]
"""Given the manifest and the data folder."""

RECIPES = ("whim", "fast", "whim_full", "whim_paper", "whim_labels", "demo")
"""By name; any other is a file's."""

VIDEOS_PER_SHARD = 4
"""About 256 MB at 204 s a video (WHIM's median), 5 frames/s and 60 kB a frame."""


def whim(manifest: Manifest, root: Path) -> list[Stage]:
    """The WHIM dataset's chain on the embedded detectors (WiLoR, sec. 3), for any list of videos.

    The project's own detector is one of them: the one that ships, or a newer one in the folder of weights. What the data taught labels
    them anew.
    """
    return _chain(manifest, root, [ProposeHands(), DetectHands(guided=True), DetectHandsWhim()])


def fast(manifest: Manifest, root: Path) -> list[Stage]:
    """The chain of `whim` with hands by MediaPipe's networks alone, without its fine tiles: less time, and small hands missed."""
    return _chain(manifest, root, [DetectHands(tile_zooms=(1.0,))])


def _chain(manifest: Manifest, root: Path, finders: list[Stage]) -> list[Stage]:
    fuse = FuseHands(detectors=hand_detectors(finders))
    return [
        Download(folder=root / "media"),
        Split(),
        DetectPeopleMoveNet(),
        FusePeople(),
        *finders,
        fuse,
        Fit(),
        Review(),
        Pack(num_shards=num_shards(len(manifest))),
    ]


def whim_full(manifest: Manifest, root: Path) -> list[Stage]:
    """WiLoR's whole ensemble (sec. 3): every member whose weights are here beside the embedded one; the others are named and left out."""
    first: list[Stage] = [Download(folder=root / "media"), Split(), DetectPeopleMoveNet()]
    members = with_weights(
        [*first, FusePeople(), DetectHands()],
        [
            (DetectPersonBoxes(),),
            (EstimatePoses(), PeopleOfPoses(), HandsOfPoses()),
            (EstimatePosesAlphaPose(), PeopleOfPoses(detector="alphapose"), HandsOfPoses(detector="alphapose", min_keypoint=0.05)),
            (DetectHandsOpenPose(),),
            (DetectHandsContactHands(),),
            (ProposeHands(), DetectHandsWhim()),
        ],
    )
    people = [stage for stage in members if stage.writes is not HandDetections]
    guided = any(isinstance(stage, ProposeHands) for stage in members)
    hands = [DetectHands(guided=guided), *(stage for stage in members if stage.writes is HandDetections)]
    fuse = FuseHands(detectors=hand_detectors(hands))
    say_uncalibrated(fuse)
    pack = Pack(num_shards=num_shards(len(manifest)))
    return [*first, *people, FusePeople(), *hands, fuse, Fit(), Review(), pack]


def whim_paper(manifest: Manifest, root: Path) -> list[Stage]:
    """WiLoR's section 3 by its own words and numbers, without what is ours beside them (docs/paper.md).

    ViTPose and AlphaPose find people of more than 0.65, MediaPipe, OpenPose and ContactHands find hands in them, eq. 1 averages boxes and
    scores as they are, and each hand is fitted by itself with eq. 2 to 4 alone. A member whose weights are not here is named and left out.
    """
    first: list[Stage] = [Download(folder=root / "media"), Split(), DetectPeople(min_score=0.65)]
    members = with_weights(
        [*first, FusePeople()],
        [
            (DetectPersonBoxes(),),
            (EstimatePoses(), PeopleOfPoses()),
            (EstimatePosesAlphaPose(), PeopleOfPoses(detector="alphapose")),
            (DetectHandsOpenPose(),),
            (DetectHandsContactHands(),),
        ],
    )
    people = [stage for stage in members if stage.writes is not HandDetections]
    hands = [*(stage for stage in members if stage.writes is HandDetections), DetectHands()]
    fuse = FuseHands(detectors=hand_detectors(hands), mode="raw", person_score=0.65)
    fit = Fit(settings=PAPER_FIT, landmark_offsets=False, hint=False, camera="weak", pairs="apart")
    return [*first, *people, FusePeople(), *hands, fuse, fit, Review(), Pack(num_shards=num_shards(len(manifest)))]


PAPER_FIT = FitSettings(
    prior_noise=0.0,
    shape_weight=0.0,
    world_weight=0.0,
    depth_weight=0.0,
    robust_scale=1e-3,
    smooth_weight=0.0,
    share_shape=False,
    jump_weight=0.0,
    track_iterations=0,
)
"""Eq. 2 with the L1 norm up to a thousandth of the box, eq. 3, eq. 4 as printed, and no other term. The weights of the terms are ours: the
paper gives none."""


def whim_labels(manifest: Manifest, root: Path) -> list[Stage]:
    """The official WHIM labels on videos that are fetched here: MediaPipe's networks tell whether they lie on the hands (`HandsOfWhim`)."""
    chain = _chain(manifest, root, [DetectHands(tile_zooms=(1.0,))])
    return [HandsOfWhim() if isinstance(stage, FuseHands) else stage for stage in chain]


def demo(manifest: Manifest, root: Path) -> list[Stage]:
    """The chain of `whim` on the studio's short videos: everything in one shard of each split."""
    return [*whim(manifest, root)[:-1], Pack(num_shards=1)]


def every_stage() -> list[Stage]:
    """All stages of all recipes with their defaults, whether or not their weights are here."""
    people: list[Stage] = [
        DetectPeople(),
        DetectPeopleMoveNet(),
        DetectPersonBoxes(),
        EstimatePoses(),
        EstimatePosesAlphaPose(),
        PeopleOfPoses(),
    ]
    finders: list[Stage] = [DetectHands(), HandsOfPoses(), DetectHandsOpenPose(), DetectHandsContactHands(), DetectHandsWhim()]
    return [
        Download(),
        Split(),
        *people,
        ProposeHands(),
        *finders,
        FuseHands(),
        HandsOfWhim(),
        FusePeople(),
        Fit(),
        Review(),
        Pack(num_shards=1),
    ]


def num_shards(num_videos: int) -> int:
    """Shards a split: a power of two, so that a list may grow a good deal before its shards change."""
    return 1 << max(0, math.ceil(math.log2(max(1, num_videos) / VIDEOS_PER_SHARD)))


def find_recipe(name: str) -> Recipe:
    """A recipe of this file by name, or `path/to/file.py:function` of the user's own.

    Raises ValueError when there is no such recipe.
    """
    known = {one.__name__: one for one in (whim, fast, whim_full, whim_paper, whim_labels, demo)}
    recipe = function_of_file(name) or known.get(name)
    if recipe is None:
        raise ValueError(f"{unknown(name, RECIPES, 'recipe')} (or path/to/file.py:function)")
    return recipe
