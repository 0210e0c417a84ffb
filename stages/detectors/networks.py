"""Running torch networks: where they run, in which precision, how many inputs at once."""

from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

import torch
from jaxtyping import Int
from torch import Tensor, nn

from fitting.batches import in_batches

_Input = TypeVar("_Input")
_Output = TypeVar("_Output")


def pick_device(name: str) -> torch.device:
    """The device of a stage's setting: auto is a GPU if this worker has one."""
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)


def computes_bfloat16(device: torch.device) -> bool:
    """Whether a device has instructions that bfloat16 is fast by; a processor without them imitates it, up to 50 times as slowly."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def ready(network: nn.Module, *, device: str, bf16: bool) -> Callable[..., Tensor]:
    """The network for inference on a device. Takes a float32 batch from the CPU, and what else it wants; its result stays on the device.

    With `bf16` convolutions and matrix products run in bfloat16 where the device computes in it, the weights and the rest in float32.
    """
    place = pick_device(device)
    narrow = bf16 and computes_bfloat16(place)
    network = network.eval().to(place).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def run(batch: Tensor, *more: Tensor) -> Tensor:
        with torch.inference_mode(), torch.autocast(place.type, torch.bfloat16, enabled=narrow):
            return network(batch.to(place, memory_format=torch.channels_last), *(given.to(place) for given in more))

    return run


class Batches(Generic[_Input, _Output]):
    """A function of many inputs, called with as many at once as fit in memory, at most `size`; what fitted is remembered.

    `what` the inputs are is said once, should memory run out.
    """

    def __init__(self, work: Callable[[Sequence[_Input]], Iterable[_Output]], size: int, what: str) -> None:
        self._work, self._size, self._what = work, size, what

    def __call__(self, inputs: Sequence[_Input]) -> list[_Output]:
        """One output an input, in order. Raises torch.OutOfMemoryError when a single input does not fit."""
        outputs: list[_Output] = []

        def work(rows: Int[Tensor, "m"]) -> None:
            outputs.extend(self._work([inputs[i] for i in rows.tolist()]))

        self._size = in_batches(work, torch.arange(len(inputs)), self._size, what=self._what)
        return outputs
