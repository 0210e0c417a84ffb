"""The training loop, one for every network: plain PyTorch, the same alone and as one rank of many.

The global batch is the unit of everything. A run that is killed goes on from its last checkpoint and sees the same batches as a
run that was not; the order of samples is the loader's, the randomness of augmentation each sample's own.
"""

import fcntl
import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils._pytree import tree_map

from stages.detectors.networks import computes_bfloat16
from stages.errors import UserError
from training.data.loader import Batch, Loader
from training.data.order import key_of
from training.run.adversary import Adversarial, Adversary
from training.run.checkpoint import Checkpoint, Progress, load_weights
from training.run.ema import Ema
from training.run.log import Log
from training.run.optimizer import Both, Kind, optimizer_of, plain_groups
from training.run.ranks import everywhere, from_first
from training.run.watch import FOLLOWERS, Follower, Screen

_STEPS_A_NOTE = 20
_STEPS_A_LOOK = 5
"""Steps after which the screen may ask for numbers before that: each asking waits for the device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings:
    """How a network is trained; which one, on what, says the task."""

    epochs: int = 100
    learning_rate: float = 1e-3
    """At its highest."""
    optimizer: Kind = "adamw"
    """muon takes the matrices of a transformer's blocks: from scratch it learns in fewer, somewhat longer steps."""
    final_share: float = 0.01
    """Share of the learning rate that is left at the end of the cosine."""
    warmup_steps: int = 500
    """Over which the learning rate rises from nothing."""
    warmup_share: float = 0.05
    """Share of the run, by steps or by the clock, after which it has risen in any case."""
    weight_decay: float = 5e-4
    """Decay of weights with two dimensions or more."""
    clip_norm: float = 10.0
    """Longest gradient."""
    precision: Literal["float32", "bfloat16", "auto"] = "float32"
    """Arithmetic of the network's forward and backward pass; augmentation, targets and losses are taken in float32. bfloat16 needs no
    scaling of the loss; auto takes it where the device computes in it: a processor that imitates it takes up to 50 times as long."""
    compile: bool = False
    """torch.compile the network: minutes at the start, faster steps on a GPU."""
    checkpoint_s: float = 300.0
    """Seconds between checkpoints; each epoch ends with one."""
    patience: int = 20
    """Epochs without a better metric before the run ends."""
    max_bad_batches: int = 10
    """Batches whose loss is not finite are skipped and counted; more than these end the run, the last one saved."""
    watch: str = ""
    """trackio or wandb: follow the run there too; the package must be installed."""
    max_minutes: float = math.inf
    """The run ends after this time, over all its starts, as if all epochs had been trained: the learning rate follows the clock then."""

    def __post_init__(self) -> None:
        for name in ("epochs", "learning_rate", "clip_norm", "checkpoint_s", "patience", "max_minutes"):
            if not getattr(self, name) > 0:
                raise ValueError(f"train.{name} must be more than 0, got {getattr(self, name)}")
        if self.watch and self.watch not in FOLLOWERS:
            raise ValueError(f"train.watch must be {' or '.join(FOLLOWERS)}, or nothing, got {self.watch!r}")


@runtime_checkable
class Task(Protocol):
    """A network to be trained: its loss, its metrics, and how its predictions are drawn."""

    kind: str
    metric: str
    """Name of the metric by which the best epoch is chosen, the higher the better."""

    def network(self) -> nn.Module:
        """A fresh network."""

    def settings(self) -> Mapping[str, Any]:
        """Settings of the network, as plain values: enough to build it again."""

    def loss(self, network: nn.Module, batch: Batch, device: torch.device, share_done: float) -> Mapping[str, Tensor]:
        """The weighted terms of a batch, whose sum is minimised; `share_done` of the run lies behind."""

    def evaluate(self, network: nn.Module, device: torch.device) -> Mapping[str, float]:
        """Metrics on held-out data."""

    def draw(self, network: nn.Module, device: torch.device, path: Path) -> None:
        """An image of what the network says."""


@runtime_checkable
class Layered(Protocol):
    """A task whose parameters do not all learn at one rate."""

    def groups(self, network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
        """Groups of parameters for the optimizer, each with its `weight_decay`, its `share` of the learning rate, the share of the run that
        it `learns_from`, and whether they are `inner` matrices of a transformer."""


class Narrowed(nn.Module):
    """A network that runs in bfloat16 and answers in float32."""

    def __init__(self, network: nn.Module, device: str) -> None:
        super().__init__()
        self.network, self.device = network, device

    def forward(self, *given: Any) -> Any:
        with torch.autocast(self.device, torch.bfloat16):
            said = self.network(*given)
        return tree_map(lambda values: values.float() if isinstance(values, Tensor) and values.is_floating_point() else values, said)


class NotFiniteError(UserError):
    """Too many batches had no finite loss."""


class Run:
    """One rank's part of a run in a folder. `last.pt` there is taken up; `best.pt` is the best by the task's metric."""

    def __init__(
        self,
        task: Task,
        loader: Loader,
        settings: TrainSettings,
        folder: Path,
        device: torch.device | str = "cpu",
        *,
        quiet: bool = False,
    ) -> None:
        self.task, self.loader, self.chosen, self.folder = task, loader, settings, folder
        self.device = torch.device(device)
        self.first = loader.rank == 0
        self.progress = Progress()
        torch.manual_seed(loader.seed)
        self.plain = task.network().to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.ema = Ema(self.plain)
        decay = settings.weight_decay
        groups = task.groups(self.plain, decay) if isinstance(task, Layered) else plain_groups(self.plain, decay)
        self.optimizer = optimizer_of(settings.optimizer, groups, settings.learning_rate)
        self.adversary = Adversary(task, settings.weight_decay, self.device, loader.world_size) if isinstance(task, Adversarial) else None
        self._take_up()
        network: nn.Module = torch.compile(self.plain) if settings.compile else self.plain  # type: ignore[assignment]
        if settings.precision == "bfloat16" or (settings.precision == "auto" and computes_bfloat16(self.device)):
            network = Narrowed(network, self.device.type)
        self.network = DistributedDataParallel(network, gradient_as_bucket_view=True) if loader.world_size > 1 else network
        self.log = Log(folder, first=self.first)
        self.screen = Screen(first=self.first, quiet=quiet)
        about = {**asdict(settings), "network": dict(task.settings())}
        self.follower = Follower(settings.watch if self.first else "", folder, about, self.screen.console)
        self.minutes_before, self.started = self.progress.minutes, time.monotonic()

    def train(self) -> Mapping[str, float]:
        """Train to the end; the best metrics.

        Raises NotFiniteError, OSError when the disk is full, and ValueError when another run is at work in the folder.
        """
        with _alone(self.folder) if self.first else nullcontext(), closing(self.follower):
            self.screen.begin(self.folder, board=self.log.has_board)
            while self._share_done() < 1 and self.progress.since_best < self.chosen.patience:
                self._epoch()
                self._measure()
        return self.progress.best

    def checkpoint(self) -> Checkpoint:
        """A checkpoint of the run as it stands."""
        return Checkpoint(
            kind=self.task.kind,
            settings=dict(self.task.settings()),
            network=self.plain.state_dict(),
            ema=self.ema.network.state_dict(),
            optimizer=self.optimizer.state_dict(),
            adversary=self.adversary.state() if self.adversary else {},
            progress=replace(self.progress, minutes=self._minutes()),
            data=self._data(),
        )

    def _epoch(self) -> None:
        """The steps of an epoch from where the run stands, or as many as there is time for."""
        here, saved = self.progress, time.monotonic()
        self.network.train()
        title = f"epoch {here.epoch + 1} of {self.chosen.epochs}"
        with closing(self.loader.epoch(here.epoch, here.step)) as batches:
            for batch in self.screen.bar(batches, title, here.step, len(self.loader)):
                share = self._share_done()
                if share >= 1:
                    break
                terms = self._step(batch, share)
                here.step = batch.step + 1
                if self.first and terms:
                    self._tell(terms)
                if self.first and time.monotonic() - saved > self.chosen.checkpoint_s:
                    self.checkpoint().save(self.folder / "last.pt")
                    saved = time.monotonic()

    def _tell(self, terms: Mapping[str, Tensor]) -> None:
        """Loss and rate of the step that was taken: on the screen of the first and then now and then, in the log every few steps."""
        here, rate = self.progress, max(group["lr"] for group in self.optimizer.param_groups)
        noted = here.num_steps % _STEPS_A_NOTE == 0 or here.step == len(self.loader)
        if not noted and here.num_steps > 1 and not (self.screen.due and here.step % _STEPS_A_LOOK == 0):
            return
        numbers = _numbers(terms)
        self.screen.step(here.step, numbers["loss"], rate, self.loader.batch_size)
        if noted:
            rates = {"rate": self.optimizer.param_groups[0]["lr"]}
            self.log.write(here.num_steps, {"epoch": here.epoch, "step": here.step, **rates, **numbers})
            self.follower.write(here.num_steps, rates | numbers)

    def _measure(self) -> None:
        """Close an epoch: metrics, an image, a checkpoint. Where nothing is measured the last epoch counts as the best."""
        here, better, metrics = self.progress, False, dict[str, float]()
        if self.first:
            metrics = dict(self.task.evaluate(self.ema.network, self.device))
            better = self.task.metric not in metrics or metrics[self.task.metric] > here.best.get(self.task.metric, -math.inf)
        better = bool(from_first(float(better), self.device))
        here.since_best = 0 if better else here.since_best + 1
        here.best = metrics if better else here.best
        here.epoch, here.step = here.epoch + 1, 0
        if not self.first:
            return
        corrupt = len(self.loader.quarantine.reasons)
        self.log.write(here.num_steps, {"epoch": here.epoch, "minutes": self._minutes(), "corrupt_samples": corrupt, **metrics})
        self.screen.measured(here.epoch, metrics, better=better)
        self.follower.write(here.num_steps, metrics)
        with self.log.spared("images"):
            self.task.draw(self.ema.network, self.device, self.folder / "images" / f"epoch-{here.epoch:04d}.jpg")
        if better:
            self.checkpoint().save(self.folder / "best.pt")
        self.checkpoint().save(self.folder / "last.pt")

    def _step(self, batch: Batch, share_done: float) -> Mapping[str, Tensor]:
        """One step of the optimizer; nothing where the loss is not finite on some rank."""
        rate = self._learning_rate(share_done)
        for group in self.optimizer.param_groups:
            learns = share_done >= group.get("learns_from", 0.0)
            group["lr"] = rate * group.get("share", 1.0) * learns
            if "learns_from" in group and self.loader.world_size == 1:  # ranks must agree from the start on what has a gradient
                for values in group["params"]:
                    values.requires_grad_(learns)
        torch.manual_seed(key_of(self.loader.seed, batch.epoch, batch.step, self.loader.rank))
        terms, prediction = self._terms(batch, share_done)
        total = torch.stack(list(terms.values())).sum()
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        length = nn.utils.clip_grad_norm_(self.plain.parameters(), self.chosen.clip_norm)
        if not everywhere(bool(torch.isfinite(total) & torch.isfinite(length)), self.device):
            self._skip(batch)
            return {}
        self.optimizer.step()
        if self.adversary:
            terms = {**terms, **self.adversary.gradient(prediction)}
            self.adversary.step(rate)
        self.progress.num_steps += 1
        self.ema.update(self.plain, self.progress.num_steps)
        return dict(terms) | {"loss": total, "gradient": length}

    def _terms(self, batch: Batch, share_done: float) -> tuple[Mapping[str, Tensor], Any]:
        """The network's terms, and what its adversary is to judge where it has one."""
        if self.adversary is None:
            return self.task.loss(self.network, batch, self.device, share_done), None
        self.adversary.plain.requires_grad_(False)
        return self.adversary.task.loss_against(self.network, self.adversary.plain, batch, self.device, share_done)

    def _skip(self, batch: Batch) -> None:
        """Count a bad batch and undo what it did to running statistics; keep the batch when it was one too many."""
        self.progress.bad_batches += 1
        averaged = dict(self.ema.network.named_buffers())
        for name, values in self.plain.named_buffers():
            if not torch.isfinite(values).all():
                values.copy_(averaged[name])
        bad = {"epoch": batch.epoch, "step": batch.step, "not_finite": batch.samples.sample.tolist()}
        self.log.write(self.progress.num_steps, bad)
        if self.progress.bad_batches > self.chosen.max_bad_batches:
            path = self.folder / f"bad_batch-{self.loader.rank}.pt"
            labels = {name: torch.from_numpy(values) for name, values in batch.labels.items()}
            told = f"the last one is {path}"
            try:
                torch.save(bad | {"images": batch.images, "key": batch.key, "labels": labels}, path)
            except (OSError, RuntimeError) as error:  # as of a full disk: what ends the run is its loss
                told = f"the last one cannot be kept as {path} ({error})"
            raise NotFiniteError(f"{self.progress.bad_batches} batches had no finite loss; {told}: lower the learning rate")

    def _learning_rate(self, share_done: float) -> float:
        """Linear warm-up, over at the latest when `warmup_share` of the run lies behind, then half a cosine down to `final_share`."""
        steps = (self.progress.num_steps + 1) / max(1, self.chosen.warmup_steps)
        rise = min(1.0, max(steps, share_done / self.chosen.warmup_share if self.chosen.warmup_share else 1.0))
        fall = 0.5 * (1 + math.cos(math.pi * share_done))
        return self.chosen.learning_rate * rise * (self.chosen.final_share + (1 - self.chosen.final_share) * fall)

    def _share_done(self) -> float:
        """Share of the run that is done, in [0, 1]: of its steps, or of its time where that is shorter. Every rank must ask at once."""
        share = (self.progress.epoch * len(self.loader) + self.progress.step) / (self.chosen.epochs * len(self.loader))
        if math.isfinite(self.chosen.max_minutes):
            share = from_first(max(share, self._minutes() / self.chosen.max_minutes), self.device)
        return min(share, 1.0)

    def _minutes(self) -> float:
        return self.minutes_before + (time.monotonic() - self.started) / 60

    def _data(self) -> str:
        loader = self.loader
        return json.dumps([loader.mixture.fingerprint, list(loader.mixture.counts), loader.seed, loader.batch_size])

    def _take_up(self) -> None:
        """Go on from `last.pt`. Raises ValueError when it is of other data, another network or other settings of it."""
        path = self.folder / "last.pt"
        if not path.exists():
            return
        saved = Checkpoint.load(path, self.task.kind)
        if saved.data != self._data():
            raise ValueError(f"{path} was trained on other data, seed or batch size: name another folder, or remove it to begin anew")
        if bool(saved.adversary) != bool(self.adversary):
            raise ValueError(
                f"{path} was trained {'with' if saved.adversary else 'without'} an adversary: name another folder, or train as then"
            )
        if ("parts" in saved.optimizer) != isinstance(self.optimizer, Both):
            raise ValueError(f"{path} was trained by another optimizer: name another folder, or train as then")
        load_weights(self.plain, saved.network, path)
        own = self.task.settings()
        other = [f"{name} {was}" for name, was in saved.settings.items() if own.get(name, was) != was]
        if other:  # weights of the same shapes: nothing else would tell
            raise ValueError(f"{path} was trained with {', '.join(other)}: name another folder, or train as then")
        load_weights(self.ema.network, saved.ema, path)
        self.optimizer.load_state_dict(dict(saved.optimizer))
        self.progress = saved.progress
        if self.adversary:
            load_weights(self.adversary.plain, saved.adversary["network"], path)
            self.adversary.optimizer.load_state_dict(saved.adversary["optimizer"])


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold a folder for one run; the kernel lets go of it when its holder dies. Raises ValueError when another run has it."""
    folder.mkdir(parents=True, exist_ok=True)
    file = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise ValueError(f"{folder}: another run is training in this folder: wait for its end, or name another by --out") from error
    finally:
        os.close(file)


def _numbers(terms: Mapping[str, Tensor]) -> dict[str, float]:
    """All of them with one wait for the device."""
    return dict(zip(terms, torch.stack([value.detach().float() for value in terms.values()]).tolist(), strict=True))
