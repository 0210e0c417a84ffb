"""Running networks: any picture, any device, half the batch when memory runs out."""

import logging
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from stages.detectors.networks import Batches, computes_bfloat16, ready
from stages.detectors.pictures import rgb


def test_grey_and_transparent_pictures_become_rgb() -> None:
    grey = np.arange(6, dtype=np.uint8).reshape(2, 3)
    for picture in (grey, grey[..., None]):
        np.testing.assert_array_equal(rgb(picture), np.stack([grey] * 3, 2))
    rgba = np.random.default_rng(0).integers(0, 255, (4, 5, 4), np.uint8)
    np.testing.assert_array_equal(rgb(rgba), rgba[..., :3])
    with pytest.raises(ValueError, match=r"1, 3 or 4 channels.*\(4, 5, 2\)"):
        rgb(rgba[..., :2])


def test_out_of_memory_halves_the_batch_goes_on_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    sizes: list[int] = []

    def square(some: Sequence[int]) -> list[int]:
        sizes.append(len(some))
        if len(some) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [i * i for i in some]

    batches = Batches(square, 8, "frames")
    with caplog.at_level(logging.WARNING):
        assert batches(range(10)) == [i * i for i in range(10)]
        assert batches(range(5)) == [i * i for i in range(5)]
    assert sizes == [8, 4, 2, 2, 2, 2, 2, 2, 2, 1]
    assert [record.getMessage() for record in caplog.records if "8 frames at once" in record.getMessage()]
    assert len(caplog.records) == 1


def test_one_input_that_does_not_fit_is_an_error() -> None:
    def never(some: Sequence[int]) -> list[int]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        Batches(never, 4, "crops")([1, 2])


def test_a_network_is_run_for_inference_and_on_request_in_bfloat16_where_the_processor_computes_in_it() -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Dropout(0.9))
    batch = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    plain, short = (ready(network, device="cpu", bf16=bf16)(batch) for bf16 in (False, True))
    assert not plain.requires_grad
    torch.testing.assert_close(plain, network[0](batch), rtol=1e-5, atol=1e-6)
    assert (plain.dtype, short.dtype) == (torch.float32, torch.bfloat16 if computes_bfloat16(torch.device("cpu")) else torch.float32)
    torch.testing.assert_close(short.float(), plain, rtol=0.05, atol=0.05)
