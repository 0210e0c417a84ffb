"""Batches of images, decoded by threads straight into the batch, in an order that depends on nothing but (datasets, seed, epoch, step).

Images are uint8, rows of red, green, blue; normalisation and augmentation are the device's work, seeded by each sample's `key`. The
global batch is the unit: rank r of w takes its w-th part, so that the same samples meet in a step whatever w is.
"""

from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from training.data.order import Mixture, key_of, mixed
from training.data.shard import CorruptSampleError

_SUBSTITUTES = 256
"""Samples tried in place of a corrupt one: a damaged page takes a hundred small images with it."""
_HANDFUL = 8
"""Images that a thread takes at a time: handing over each on its own costs two threads a tenth of their time."""
_STEPS_AT_ONCE = 64
"""Whose order is computed in one go: for few samples it costs as much as for many."""


class Samples(NamedTuple):
    """Samples of a batch: which one of which dataset, and the key of its augmentation."""

    dataset: Int64[np.ndarray, "b"]
    sample: Int64[np.ndarray, "b"]
    key: Int64[np.ndarray, "b"]  # pseudo-random, of (seed, epoch, position in the global order)


@runtime_checkable
class SampleSource(Protocol):
    """A dataset seen as samples of one kind: whole frames, or crops of hands."""

    def __len__(self) -> int:
        """Number of samples."""

    @property
    def fingerprint(self) -> str:
        """Key of the dataset and of what is made of it: others are in another order."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of an image."""

    def decode(self, sample: int, out: UInt8[np.ndarray, "height width 3"]) -> None:
        """Write one image. Raises CorruptSampleError."""

    def labels(self, samples: Sequence[int]) -> dict[str, np.ndarray]:
        """Columns of labels of a batch of samples; `image`, and any column whose name ends so, counts within the batch."""


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Batch:
    """One rank's part of a global batch. The images are a loan: they are overwritten two batches later."""

    epoch: int
    step: int
    images: UInt8[Tensor, "b height width 3"]
    key: Int64[Tensor, "b"]
    samples: Samples
    """With what a corrupt sample was replaced by."""
    labels: Mapping[str, np.ndarray]
    """See `SampleSource.labels`."""


@dataclass(slots=True)
class Quarantine:
    """Corrupt samples met so far, and when to give up."""

    max_share: float = 0.01
    """Largest share of corrupt ones among the samples read."""
    tolerated: int = 200
    """However few have been read: a page or two."""
    reasons: dict[tuple[int, int], str] = field(default_factory=dict)
    num_read: int = 0

    def add(self, dataset: int, sample: int, reason: str) -> None:
        """Raises CorruptSampleError when too many are corrupt."""
        self.reasons[dataset, sample] = reason
        if len(self.reasons) > max(self.tolerated, self.max_share * self.num_read):
            raise CorruptSampleError(f"{len(self.reasons)} of {self.num_read} samples are corrupt, the last: {reason}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Loader:
    """Batches of one rank. Raises ValueError for settings that do not fit each other."""

    sources: Sequence[SampleSource]
    batch_size: int
    """Samples of a step, of all ranks together."""
    weights: Sequence[float] | None = None
    """Relative shares of the datasets; None takes each sample once an epoch."""
    num_samples: int | None = None
    """Samples of an epoch with weights."""
    rank: int = 0
    world_size: int = 1
    seed: int = 0
    shuffle: bool = True
    num_threads: int = 2
    prefetch: int = 2
    """Batches decoded ahead."""
    pin_memory: bool = False
    quarantine: Quarantine = field(default_factory=Quarantine)

    def __post_init__(self) -> None:
        if self.batch_size % self.world_size:
            raise ValueError(f"batch_size must be a multiple of the {self.world_size} ranks, got {self.batch_size}")
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"loader.rank must lie in [0, {self.world_size}), got {self.rank}")
        if len({source.shape for source in self.sources}) != 1:
            raise ValueError(f"images of one batch need one shape, got {[source.shape for source in self.sources]}")
        if not len(self):
            n = len(self.mixture)
            raise ValueError(f"batch_size {self.batch_size} is more than the {n} samples of an epoch: --set batch_size={max(1, n)} at most")

    @property
    def mixture(self) -> Mixture:
        """The order of all epochs."""
        counts = [len(source) for source in self.sources]
        fingerprint = " ".join(source.fingerprint for source in self.sources)
        return Mixture(counts=counts, weights=self.weights, num_samples=self.num_samples, seed=self.seed, fingerprint=fingerprint)

    def __len__(self) -> int:
        """Steps of an epoch: the same for every rank, what is left over waits for another epoch."""
        return len(self.mixture) // self.batch_size

    def epoch(self, epoch: int, step: int = 0) -> Generator[Batch, None, None]:
        """The batches of an epoch from a step on."""
        shape = (self.batch_size // self.world_size, *self.sources[0].shape)
        ring = [torch.empty(shape, dtype=torch.uint8, pin_memory=self.pin_memory) for _ in range(self.prefetch + 2)]
        ahead: deque[tuple[Samples, Tensor, list[Future[list[int]]]]] = deque()
        pool = ThreadPoolExecutor(self.num_threads, thread_name_prefix="decode")
        order = enumerate(self._order(epoch, step), step)
        try:
            for now in range(step, len(self)):
                for later, samples in islice(order, self.prefetch + 1 - len(ahead)):
                    images = ring[later % len(ring)]
                    ahead.append((samples, images, self._decoded(pool, samples, images.numpy())))
                samples, images, read = ahead.popleft()
                sample = np.array([sample for future in read for sample in future.result()], np.int64)
                key = torch.from_numpy(samples.key)
                samples = samples._replace(sample=sample)
                yield Batch(epoch=epoch, step=now, images=images, key=key, samples=samples, labels=self._labels(samples))
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _order(self, epoch: int, step: int) -> Iterator[Samples]:
        """This rank's samples of each step from one on, computed from nothing."""
        share = self.batch_size // self.world_size
        base = np.uint64(key_of(self.seed, "augment", epoch))
        mixture, here = self.mixture, self.rank * share + np.arange(share)
        for start in range(step, len(self), _STEPS_AT_ONCE):
            steps = np.arange(start, min(start + _STEPS_AT_ONCE, len(self)))
            position = (steps[:, None] * self.batch_size + here).ravel()
            dataset, sample = mixture.at(epoch, position, shuffle=self.shuffle)
            key = mixed(position.astype(np.uint64) + base).view(np.int64)
            yield from map(Samples, *(values.reshape(-1, share) for values in (dataset, sample, key)))

    def _labels(self, samples: Samples) -> dict[str, np.ndarray]:
        """The labels of all datasets as one, `image` counting within the batch."""
        parts = []
        for k, source in enumerate(self.sources):
            mine = np.flatnonzero(samples.dataset == k)
            if not len(mine):
                continue
            labels = source.labels(samples.sample[mine].tolist())
            parts.append({name: mine[values] if name.endswith("image") else values for name, values in labels.items()})
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _decoded(self, pool: ThreadPoolExecutor, samples: Samples, out: UInt8[np.ndarray, "b height width 3"]) -> list[Future[list[int]]]:
        triples = list(zip(samples.dataset.tolist(), samples.sample.tolist(), out, strict=True))
        handfuls = [triples[start : start + _HANDFUL] for start in range(0, len(triples), _HANDFUL)]
        return [pool.submit(lambda some: [self._decode(*triple) for triple in some], handful) for handful in handfuls]

    def _decode(self, dataset: int, sample: int, out: UInt8[np.ndarray, "height width 3"]) -> int:
        """Decode a sample, or the next one that is sound; which one it was."""
        source = self.sources[dataset]
        self.quarantine.num_read += 1
        for substitute in range(sample, sample + _SUBSTITUTES):
            at = substitute % len(source)
            try:
                source.decode(at, out)
                return at
            except CorruptSampleError as error:
                self.quarantine.add(dataset, at, str(error))
        raise CorruptSampleError(f"{_SUBSTITUTES} samples in a row are corrupt, the last: {self.quarantine.reasons[dataset, at]}")
