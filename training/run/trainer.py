"""Ray Train's trainer of torch, changed in two things: where the ranks meet, and who hears Ctrl-C.

Left to itself torch's store listens at every address of the machine, gloo and NCCL at that of the first network card; none asks
who calls. Here the store listens at the one address by which Ray knows a node. Where that is loopback, which no other node can reach,
gloo and NCCL listen there as well; elsewhere they choose the interface. TPUs and the `init_method` of Ray's own trainer are left out.
"""

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import ray
import ray.util
import torch.distributed as dist
from ray.train._internal.base_worker_group import BaseWorkerGroup
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.torch.config import _set_torch_distributed_env_vars, _TorchBackend

_LOOPBACK_INDEX = 1
"""The first interface of every system (lo, lo0)."""

_listening: list[socket.socket] = []
"""The first rank's, between `_listen` and `_meet`."""


class Trainer(TorchTrainer):  # type: ignore[misc]
    """The trainer of a run."""

    def __init__(self, rank: Callable[[dict[str, Any]], None], **options: Any) -> None:
        super().__init__(rank, torch_config=AtOneAddress(), **options)

    def _register_sigint_handler(self, controller: object) -> None:
        """Leave Ctrl-C to the program: Ray's own handler ends it with 0, as if all were trained."""


@dataclass
class AtOneAddress(TorchConfig):  # type: ignore[misc]
    """Ray Train's process group of torch, whose ranks meet at one address."""

    @property
    def backend_cls(self) -> type["_Meeting"]:
        return _Meeting


class _Meeting(_TorchBackend):  # type: ignore[misc]
    def on_start(self, worker_group: BaseWorkerGroup, backend_config: TorchConfig) -> None:
        has_gpu = worker_group.get_resources_per_worker().get("GPU", 0) > 0
        backend = backend_config.backend or ("nccl" if has_gpu else "gloo")
        address = worker_group.execute_single(0, _listen)
        worker_group.execute(_set_torch_distributed_env_vars)
        size = len(worker_group)
        told = {"address": address, "size": size, "backend": backend, "timeout_s": backend_config.timeout_s}
        ray.get([worker_group.execute_single_async(rank, _meet, world_rank=rank, **told) for rank in range(size)])


def _listen() -> tuple[str, int]:
    """Open the door of the store on the first rank; its address."""
    host = ray.util.get_node_ip_address()
    server = socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    _listening[:] = [server]
    return host, int(server.getsockname()[1])


def _meet(*, address: tuple[str, int], world_rank: int, size: int, backend: str, timeout_s: int) -> None:
    """Come to the store, and with the others be a process group."""
    host, port = address
    if host.startswith("127.") or host == "::1":
        for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
            os.environ.setdefault(name, socket.if_indextoname(_LOOPBACK_INDEX))
    timeout = timedelta(seconds=timeout_s)
    door = _listening.pop().detach() if world_rank == 0 else None
    store = dist.TCPStore(host, port, size, is_master=world_rank == 0, timeout=timeout, master_listen_fd=door)  # type: ignore[attr-defined]
    dist.init_process_group(backend, store=store, rank=world_rank, world_size=size, timeout=timeout)
