"""Settings of a recipe's stages by name: `split.frames_per_second`, `detect_hands_openpose.batch_size`.

A stage's settings are called as its module. The name of the command (`detect_hands`) speaks of all stages of that name that have the field;
where a recipe has one stage twice, `hands_of_poses.alphapose.min_keypoint` speaks of one.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from pipeline.members import hand_detectors
from stages.fuse_hands import FuseHands
from stages.settings import Setting, find_setting, kind_name, settings_of, unknown, value_text, with_values
from stages.stage import Stage, settings_name
from stages.tables import Manifest

MOVED: Mapping[str, str] = {
    f"detect_hands_whim.{name}": f"propose_hands_whim.{name}" for name in ("file", "min_score", "max_iou", "batch_size")
}
"""Names of before, as folders of then remember them, and those of today."""


def with_settings(stages: Sequence[Stage], asked: Mapping[str, Any]) -> list[Stage]:
    """The stages of a recipe with the named settings changed.

    Raises ValueError that names the field, the value and what is allowed: for a stage or a field that there is not, a value of another
    type, and whatever the stage itself refuses.
    """
    changes: dict[int, dict[str, Any]] = {}
    for name, value in asked.items():
        for position, path in _places(stages, name):
            changes.setdefault(position, {})[path] = value
    changed = {p: with_values(stages[p], values, settings_name(stages[p])) for p, values in changes.items()}
    pairs = [(stages[p], stage) for p, stage in changed.items()]
    told = [_told(changed.get(p, stage), pairs) for p, stage in enumerate(stages)]
    if any(isinstance(stage, FuseHands) for stage in changed.values()):
        _check_detectors(told)
    return told


def _check_detectors(stages: Sequence[Stage]) -> None:
    """Raise ValueError when fusion is told of other detectors than the recipe runs: every clip would fail, or count a silent one."""
    here = hand_detectors(stages)
    for stage in stages:
        if isinstance(stage, FuseHands) and set(stage.detectors) != set(here):
            raise ValueError(
                f"fuse_hands.detectors must be those that the recipe runs ({', '.join(here)}), got {', '.join(stage.detectors)}"
            )


def canonical(stages: Sequence[Stage], asked: Mapping[str, Any]) -> dict[str, Any]:
    """Settings, each under its one name. Raises ValueError as `with_settings`."""
    named = {}
    for name, value in asked.items():
        for position, path in _places(stages, name):
            setting = find_setting(stages[position], path, settings_name(stages[position]))
            named[f"{_owner(stages, position)}.{setting.name}"] = value
    return named


def listed(stages: Iterable[Stage]) -> dict[str, Setting]:
    """Every setting of some stages by the name that sets it alone."""
    stages = list(stages)
    found: dict[str, Setting] = {}
    for position, stage in enumerate(stages):
        found |= {f"{_owner(stages, position)}.{setting.name}": setting for setting in settings_of(stage) if setting.name != "detector"}
    return found


def shown(recipe: str | None, stage: str | None) -> dict[str, Setting]:
    """The settings of a recipe or of every stage there is; with a `stage`, of that one. Raises ValueError for unknown names."""
    from pipeline.recipes import every_stage, find_recipe

    stages = find_recipe(recipe)(Manifest.empty(), Path()) if recipe else every_stage()
    chosen = [one for one in stages if stage is None or _plain(stage) in (settings_name(one), _plain(one.name))]
    if not chosen:
        raise ValueError(unknown(str(stage), map(settings_name, stages), "stage"))
    return listed(chosen)


def settings_as_json(recipe: str | None, stage: str | None) -> dict[str, dict[str, str]]:
    """The settings as plain values, for programs."""
    return {
        name: {"type": kind_name(setting.kind), "default": value_text(setting.value), "text": setting.text}
        for name, setting in shown(recipe, stage).items()
    }


def in_words(asked: Mapping[str, Any]) -> str:
    """Settings as one line, for plans and reports."""
    return "  ".join(f"{name}={value_text(value)}" for name, value in sorted(asked.items()))


def _plain(name: str) -> str:
    return name.replace("-", "_")


def _owner(stages: Sequence[Stage], position: int) -> str:
    """The name before the dot that speaks of one stage alone: its module, with the detector where the recipe has the stage twice."""
    stage = stages[position]
    alone = [settings_name(other) for other in stages].count(settings_name(stage)) == 1
    return settings_name(stage) if alone else f"{settings_name(stage)}.{stage.detector}"


def _places(stages: Sequence[Stage], name: str) -> list[tuple[int, str]]:
    """Positions of the stages that a name speaks of, each with the name of the field within it."""
    first, _, rest = MOVED.get(name, name).partition(".")
    exact = [p for p, stage in enumerate(stages) if settings_name(stage) == _plain(first)]
    here = exact or [p for p, stage in enumerate(stages) if _plain(stage.name) == _plain(first)]
    if not here:
        bare = [name for name in listed(stages) if not rest and name.endswith(f".{_plain(first)}")]
        if bare:
            raise ValueError(f"a setting is named with its stage, such as {' or '.join(bare[:3])}, got {name!r}")
        raise ValueError(unknown(first, map(settings_name, stages), "stage"))
    detector, _, field = rest.partition(".")
    of_detector = [p for p in here if stages[p].detector == detector]
    if of_detector and field:
        return [(p, field) for p in of_detector]
    having = [p for p in here if any(rest in (s.name, s.name.rpartition(".")[2], ".".join(s.path)) for s in settings_of(stages[p]))]
    if not having:
        known = [f"{settings_name(stages[p])}.{setting.name}" for p in here for setting in settings_of(stages[p])]
        raise ValueError(unknown(f"{settings_name(stages[here[0]])}.{rest}" if rest else first, known, "setting"))
    return [(p, rest) for p in having]


def _told(stage: Stage, changed: Sequence[tuple[Stage, Stage]]) -> Stage:
    """A stage that holds another one among its settings, with that one changed as in the recipe."""
    held = {f.name: getattr(stage, f.name) for f in fields(stage)}  # type: ignore[arg-type]
    news = {name: after for name, value in held.items() for before, after in changed if hasattr(value, "build") and value == before}
    return replace(stage, **news) if news else stage  # type: ignore[type-var]
