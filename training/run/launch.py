"""Starts a run: Ray Train starts its ranks, here in this process or as workers of a cluster, and again after a crash."""

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from training.data.loader import Loader
from training.run.loop import Run, Task, TrainSettings


def launch(
    task: Task,
    loader: Loader,
    settings: TrainSettings,
    folder: Path,
    *,
    num_workers: int = 0,
    use_gpu: bool = False,
    max_failures: int = 3,
    join_ray: Callable[[], None] | None = None,
    quiet: bool = False,
) -> Mapping[str, float]:
    """Train in this process (`num_workers` 0) or by that many workers; the metrics of the best epoch, empty where nothing was measured.

    The folder must be seen by every worker. `join_ray` connects this process to the Ray that is to hold them.
    A worker that dies takes the run back to its last checkpoint, `max_failures` times.
    """
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.v2.api.exceptions import TrainingFailedError

    from training.run.trainer import Trainer

    folder.mkdir(parents=True, exist_ok=True)
    if num_workers and join_ray:
        join_ray()
    trainer = Trainer(
        _rank,
        train_loop_config={"task": task, "loader": loader, "settings": settings, "folder": folder, "use_gpu": use_gpu, "quiet": quiet},
        scaling_config=ScalingConfig(num_workers=num_workers, use_gpu=use_gpu),
        run_config=RunConfig(
            name="ray", storage_path=str(folder.absolute()), failure_config=FailureConfig(max_failures=max_failures if num_workers else 0)
        ),
    )
    try:
        return dict(trainer.fit().metrics or {})
    except TrainingFailedError as error:
        raise next(iter(getattr(error, "worker_failures", {}).values()), error) from error


def _rank(told: Mapping[str, Any]) -> None:
    """One rank's part, on the worker that is to do it."""
    import ray.train

    context = ray.train.get_context()
    device = torch.device("cuda", torch.cuda.current_device()) if told["use_gpu"] else torch.device("cpu")
    part = replace(
        told["loader"], rank=context.get_world_rank(), world_size=max(1, context.get_world_size()), pin_memory=device.type == "cuda"
    )
    best = Run(told["task"], part, told["settings"], told["folder"], device, quiet=told["quiet"]).train()
    ray.train.report(dict(best))
