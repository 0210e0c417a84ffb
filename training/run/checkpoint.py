"""Checkpoints: all of a run at one step, written whole or not at all, and taken up again to the batch."""

import os
import pickle
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stages.detectors.weights import is_inflated, refuse_bomb, refuse_damage, why_unpickled

FORMAT = 1
_IN_FILE = {"ema": "average", "adversary": "rival"}
"""Fields that files call otherwise, as the first ones did: one format for files of every age."""


@dataclass(slots=True)
class Progress:
    """Epochs, steps and time behind a run, and its best metrics."""

    epoch: int = 0
    step: int = 0
    """Next step to be taken of the epoch."""
    num_steps: int = 0
    """Taken altogether."""
    minutes: float = 0.0
    """Spent, by all its starts."""
    bad_batches: int = 0
    """Skipped, for their loss was not finite."""
    since_best: int = 0
    """Epochs since the metrics were best."""
    best: Mapping[str, float] = field(default_factory=dict)
    """Metrics of the best epoch."""


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Checkpoint:
    """Everything that decides the steps to come."""

    kind: str
    """Kind of network that was trained: detector or regressor."""
    settings: Mapping[str, Any]
    """Settings of the network, as plain values."""
    network: Mapping[str, Tensor]
    ema: Mapping[str, Tensor]
    """Moving average of the weights over the steps: what is evaluated and shipped."""
    optimizer: Mapping[str, Any]
    progress: Progress
    data: str
    """Fingerprint of the data, seed and batch size, without which the order of samples is another."""
    adversary: Mapping[str, Any] = field(default_factory=dict)
    """Network and optimizer of `training.run.adversary`, where there is one."""

    def save(self, path: Path) -> None:
        """Write aside, flush to the disk, rename. Raises OSError with what to do about it; the file of before stays."""
        aside = path.with_suffix(".partial")
        values = {_IN_FILE.get(name, name): getattr(self, name) for name in self.__slots__} | {"progress": asdict(self.progress)}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with aside.open("wb") as file:
                torch.save({"format": FORMAT, **values}, file)
                file.flush()
                os.fsync(file.fileno())
            aside.rename(path)
        except (OSError, RuntimeError) as error:
            aside.unlink(missing_ok=True)
            raise OSError(f"cannot write checkpoint {path} ({error}): make room and run again, it goes on from the last one") from error

    @classmethod
    def load(cls, path: Path, kind: str | None = None) -> "Checkpoint":
        """Read one, running no code of its. Raises ValueError for what is no checkpoint of that kind."""
        with path.open("rb") as file:
            if file.read(2) != b"PK":
                raise ValueError(f"{path} is no checkpoint: name best.pt or last.pt of a training")
        try:
            refuse_bomb(path)
            refuse_damage(path)
            with warnings.catch_warnings(action="ignore"):  # of strange pickles, which are refused or read
                values = torch.load(path, map_location="cpu", weights_only=True)
            if any(is_inflated(tensor) for tensor in _tensors(values)):
                raise ValueError("tensors larger than their data")
        except FileNotFoundError:
            raise
        except pickle.UnpicklingError as error:
            raise ValueError(f"{path} is refused: {why_unpickled(error)}") from error
        except Exception as error:  # torch raises half a dozen types for damaged files
            raise ValueError(f"{path} cannot be read as a checkpoint ({error!s:.200}): is it cut short?") from error
        if not isinstance(values, dict) or values.pop("format", None) != FORMAT:
            raise ValueError(f"{path} is no checkpoint of this version of training")
        values = {name: values.pop(_IN_FILE.get(name, name)) for name in cls.__slots__ if _IN_FILE.get(name, name) in values} | values
        if {"adversary", *values} != set(cls.__slots__) or not _are_fields(values):
            raise ValueError(f"{path} is no checkpoint of this version of training")
        if kind and values["kind"] != kind:
            raise ValueError(f"{path} holds a {values['kind']}, not a {kind}")
        return cls(**values | {"progress": Progress(**values["progress"])})


_NUMBERS = {"epoch": int, "step": int, "num_steps": int, "minutes": float, "bad_batches": int, "since_best": int}
"""Of `Progress`."""


def _are_fields(values: Mapping[str, Any]) -> bool:
    """Whether the values of a file are of the kinds that a checkpoint's are: whoever reads one believes it."""
    progress, tables = values["progress"], (values["network"], values["ema"])
    return (
        all(isinstance(values[name], str) for name in ("kind", "data"))
        and all(isinstance(values.get(name, {}), dict) for name in ("settings", "optimizer", "progress", "adversary", "network", "ema"))
        and all(isinstance(name, str) for name in values["settings"])
        and all(isinstance(name, str) and isinstance(one, Tensor) for table in tables for name, one in table.items())
        and progress.keys() <= {"best", *_NUMBERS}
        and all(type(progress.get(name, kind())) in (kind, int) and progress.get(name, 0) >= 0 for name, kind in _NUMBERS.items())
        and isinstance(progress.get("best", {}), dict)
        and all(isinstance(name, str) and isinstance(one, int | float) for name, one in progress.get("best", {}).items())
    )


def _tensors(values: Any) -> Iterator[Tensor]:
    """Every tensor of nested plain values."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, Mapping | list | tuple):
        for one in values.values() if isinstance(values, Mapping) else values:
            yield from _tensors(one)


def load_weights(network: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Put weights into a network of the same make. Raises ValueError that says how they differ."""
    own = network.state_dict()
    other = sorted(name for name in own.keys() & weights.keys() if own[name].shape != weights[name].shape)
    strange = sorted(own.keys() ^ weights.keys())
    if other or strange:
        first = other[0] if other else strange[0]
        raise ValueError(f"{path} is of another network: {len(other)} shapes and {len(strange)} names differ, the first is {first}")
    network.load_state_dict(dict(weights))
