"""Where a worker works: its node, its process, and the file that Ray keeps what it says in."""

import os
import socket
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Place:
    """A process that does items."""

    node: str
    """Ray's id of its node; '' without Ray."""
    host: str
    pid: int
    log: str = ""
    """Ray's log of it, on that host; '' without Ray."""

    def __str__(self) -> str:
        """In the words of a failure: on HOST, pid 123, log PATH."""
        return f"on {self.host}, pid {self.pid}" + (f", log {self.log}" if self.log else "")


def this_place() -> Place:
    """The place of this very process."""
    host, pid = socket.gethostname(), os.getpid()
    if "ray" not in sys.modules:  # a run in this process asks for none
        return Place("", host, pid)
    import ray
    from ray._private import worker

    node = worker._global_node
    if not ray.is_initialized() or node is None or worker.global_worker.mode != worker.WORKER_MODE:
        return Place("", host, pid)
    log = next(iter(Path(node.get_logs_dir_path()).glob(f"worker-*-{pid}.err")), None)
    return Place(str(ray.get_runtime_context().get_node_id()), host, pid, str(log or ""))
