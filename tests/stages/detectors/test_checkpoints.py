"""Reading checkpoints: whatever trainers wrap them in, and never what would run code, burst, or belong to another network."""

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from stages.detectors.weights import BadWeights, fill, load_checkpoint

TENSORS = {"conv.weight": torch.arange(12.0).view(3, 4), "conv.bias": torch.ones(3)}


class Bomb:
    """Runs a command when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.mark}",)


def same(state: dict, tensors: dict = TENSORS) -> bool:
    return state.keys() == tensors.keys() and all(torch.equal(state[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model", "teacher"])
def test_wrappers_of_trainers_are_taken_off(tmp_path: Path, wrapper: str | None, zipped: bool) -> None:
    extras = {"epoch": 7, "best": np.float64(0.5), "optimizer": {"state": {0: torch.zeros(2)}}, "meta": {"config": "text"}}
    content = {wrapper: TENSORS, **extras} if wrapper else TENSORS
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    assert same(load_checkpoint(tmp_path / "a.pth"))


def test_wrappers_within_wrappers_arrays_and_parallel_prefixes(tmp_path: Path) -> None:
    arrays = {f"module.{name}": tensor.numpy() for name, tensor in TENSORS.items()}
    torch.save({"teacher": {"state_dict": arrays}}, tmp_path / "a.pth")
    assert same(load_checkpoint(tmp_path / "a.pth"))


def test_safetensors_whatever_the_suffix(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "a.bin")
    assert same(load_checkpoint(tmp_path / "a.bin"))


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_pickle_is_refused_and_never_run(tmp_path: Path, zipped: bool) -> None:
    torch.save({"w": torch.ones(2), "x": Bomb(tmp_path / "ran")}, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(BadWeights, match=r"its pickle calls (posix|nt)\.system"):
        load_checkpoint(tmp_path / "a.pth")
    assert not (tmp_path / "ran").exists()


def test_whole_pickled_module_is_refused(tmp_path: Path) -> None:
    torch.save(nn.Sequential(nn.Linear(2, 2)), tmp_path / "a.pth")
    with pytest.raises(BadWeights, match=r"Sequential.*tensors only"):
        load_checkpoint(tmp_path / "a.pth")


def test_zip_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(4_000_000)}, tmp_path / "a.pth")
    with zipfile.ZipFile(tmp_path / "a.pth") as plain, zipfile.ZipFile(tmp_path / "b.pth", "w", zipfile.ZIP_DEFLATED) as bomb:
        for record in plain.infolist():
            bomb.writestr(record.filename, plain.read(record))
    assert (tmp_path / "b.pth").stat().st_size < 100_000
    with pytest.raises(BadWeights, match=r"bytes that unpack to 16,\d+,\d+"):
        load_checkpoint(tmp_path / "b.pth")


def test_tensor_that_claims_more_than_its_data_is_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(1).expand(10**10)}, tmp_path / "a.pth")
    with pytest.raises(BadWeights, match="larger than their data: w"):
        load_checkpoint(tmp_path / "a.pth")


@pytest.mark.parametrize("kind", ["zip", "old", "safetensors"])
def test_truncated_files_are_told_at_every_length(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.pth"
    tensors = {"w": torch.arange(5000.0)}
    if kind == "safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=kind == "zip")
    whole = path.read_bytes()
    for share in (0.0, 0.001, 0.01, 0.1, 0.5, 0.9, 0.999):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(BadWeights, match=str(path)):
            load_checkpoint(path)


def test_noise_pages_and_other_contents_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(np.random.default_rng(0).bytes(1000))
    with pytest.raises(BadWeights, match="no checkpoint"):
        load_checkpoint(path)
    path.write_bytes(b"<!DOCTYPE html><title>Virus scan warning</title>")
    with pytest.raises(BadWeights, match="web page"):
        load_checkpoint(path)
    torch.save([torch.ones(2)], path)
    with pytest.raises(BadWeights, match="holds a list"):
        load_checkpoint(path)
    torch.save({"epoch": 3}, path)
    with pytest.raises(BadWeights, match="no tensors"):
        load_checkpoint(path)


def test_another_networks_keys_and_shapes_are_listed() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    state = network.state_dict()
    before = state["0.weight"].clone()
    wrong = {name: tensor for name, tensor in state.items() if name != "0.bias"} | {"head.weight": torch.ones(1), "1.weight": torch.ones(5)}
    wrong["0.weight"] = torch.zeros_like(before)
    with pytest.raises(
        BadWeights, match=r"1 missing: 0\.bias; 1 unexpected: head\.weight; 1 of another shape: 1\.weight \(5,\) for \(2,\)"
    ):
        fill(network, wrong, Path("a.pth"))
    assert torch.equal(network.state_dict()["0.weight"], before), "nothing is loaded from a wrong checkpoint"


def test_old_checkpoints_without_counters_and_known_leftovers_load() -> None:
    network = nn.BatchNorm1d(2)
    state = {
        "bn.weight": torch.full((2,), 3.0),
        "bn.bias": torch.zeros(2),
        "bn.running_mean": torch.zeros(2),
        "bn.running_var": torch.ones(2),
    }
    fill(nn.ModuleDict({"bn": network}), state | {"extra.head": torch.ones(1)}, Path("a.pth"), ignore=(r"extra\.",))
    assert torch.equal(network.weight, torch.full((2,), 3.0))
