"""The table of all published sets: the name by which `whim train regressor --sets NAME=DIR` takes one, and its reader."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stages.settings import unknown
from training.data.sets.hand_crops import HandCrops

Reader = Callable[[Path], HandCrops]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """A set that a run is to be trained on."""

    name: str
    folder: Path
    weight: float | None
    """Relative share of an epoch; None takes every hand once."""


def _readers() -> Mapping[str, Reader]:
    from training.data.sets.arctic import arctic
    from training.data.sets.bedlam import bedlam
    from training.data.sets.dexycb import dexycb
    from training.data.sets.freihand import freihand
    from training.data.sets.hamer import hamer
    from training.data.sets.ho3d import h2o3d, ho3d
    from training.data.sets.hot3d import hot3d
    from training.data.sets.interhand import interhand26m, reinterhand
    from training.data.sets.mpii_nzsl import mpii_nzsl
    from training.data.sets.mtc import mtc
    from training.data.sets.rhd import rhd
    from training.data.sets.whole_body import coco_wholebody_hands, halpe_hands

    return {
        "freihand": lambda folder: freihand(folder, "training"),
        "ho3d": lambda folder: ho3d(folder, "train"),
        "mtc": mtc,
        "rhd": rhd,
        "interhand": interhand26m,
        "h2o3d": h2o3d,
        "dexycb": dexycb,
        "coco-wholebody": coco_wholebody_hands,
        "halpe": halpe_hands,
        "mpii-nzsl": mpii_nzsl,
        "bedlam": bedlam,
        "arctic": arctic,
        "reinterhand": reinterhand,
        "hot3d": hot3d,
        "hamer": hamer,
    }


HAMER_SETS = ("freihand", "ho3d", "mtc", "rhd", "interhand", "h2o3d", "dexycb", "coco-wholebody", "halpe", "mpii-nzsl")
"""The ten that HaMeR was trained on: WiLoR, Table 5, "w. Datasets [61]"."""
PAPER_SETS = (*HAMER_SETS, "bedlam", "arctic", "reinterhand", "hot3d")
"""The fourteen of WiLoR, section 5.2."""
NAMES = (*PAPER_SETS, "hamer")


def chosen_sets(words: Sequence[str]) -> list[Chosen]:
    """What `--sets` says: NAME=DIR or NAME=DIR:WEIGHT, several with commas between or apart. Raises ValueError for anything else."""
    told = [split_word(word, NAMES) for some in words for word in some.split(",") if word]
    return [Chosen(name=name, folder=Path(folder), weight=weight) for name, folder, weight in told]


def split_word(word: str, names: Sequence[str]) -> tuple[str, str, float | None]:
    """Name, folder and weight of NAME=DIR:WEIGHT. Raises ValueError for a name that is none of `names`, and where a part is missing."""
    name, _, place = word.partition("=")
    if name not in names:
        raise ValueError(f"--sets {word}: {unknown(name, names, 'set')}")
    folder, _, number = place.rpartition(":")
    try:
        weight = float(number) if folder else None
    except ValueError:
        folder, weight = place, None  # a colon of the folder's own name
    folder = folder or place
    if not folder or (weight is not None and not 0 < weight < float("inf")):
        raise ValueError(f"--sets {word}: say {name}=DIR, or {name}=DIR:WEIGHT with a weight above 0")
    return name, folder, weight


def read_set(chosen: Chosen) -> HandCrops:
    """The crops of a set. Raises FileNotFoundError or ValueError, which say what is missing or damaged and where to get it."""
    if not chosen.folder.is_dir():
        raise FileNotFoundError(f"--sets {chosen.name}={chosen.folder}: no such folder")
    return _readers()[chosen.name](chosen.folder)
