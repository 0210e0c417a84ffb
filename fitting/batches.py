"""Many rows of work in batches; a batch that does not fit the GPU's memory is split, not lost."""

import logging
from collections.abc import Callable

import torch
from jaxtyping import Int
from torch import Tensor

_log = logging.getLogger(__name__)


def in_batches(work: Callable[[Int[Tensor, "m"]], None], rows: Int[Tensor, "n"], size: int, *, what: str = "hands") -> int:
    """Call `work` on all `rows`, at most `size` at once; a batch for which memory runs out is halved, and so are those after it.

    Returns the size that fitted; halving is logged once. Raises torch.OutOfMemoryError when a single row does not fit.
    """
    told = False
    while len(rows):
        batch = rows[:size]
        try:
            work(batch)
        except torch.OutOfMemoryError:
            if len(batch) == 1:
                raise
            size = len(batch) // 2
        else:
            rows = rows[len(batch) :]
            continue
        torch.cuda.empty_cache()  # here, because the exception held the batch's tensors
        if not told:
            _log.warning("%d %s at once do not fit the GPU's memory: the batch is halved until they do", len(batch), what)
        told = True
    return size
