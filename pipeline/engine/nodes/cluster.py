"""Which Ray a run works on: the one that $RAY_ADDRESS names, else one of its own that nobody beyond this machine can reach.

A Ray of its own listens on 127.0.0.1 alone and knows its callers by a token that is made for this run and lies in no file. A file that
some earlier `ray start` of anybody left in the temporary folder is no address that this run was told.
"""

import os
import re
import secrets
import signal
import socket
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

ADDRESS = "RAY_ADDRESS"
_ANSWER_S = 5
"""A cluster that is there answers within this."""
_LONGEST_SOCKET_BYTES = 107
"""Of the path of a socket: the kernel's limit."""
_SOCKET_BELOW = len("/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store.0")


class NoCluster(ValueError):
    """No Ray to work on, told in one line."""


def join() -> None:
    """Connect this process to Ray. Raises NoCluster that names the address, where it came from, and what to do."""
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        address = os.environ.get(ADDRESS, "")
        if address in ("", "local"):
            _start_own()
        else:
            _connect(address)
    finally:
        signal.signal(signal.SIGTERM, on_sigterm)  # ray.init puts its own there: it ends the driver in the middle of a call


def is_joined() -> bool:
    """Whether the Ray that this process works on is one that others started, with an environment of its own."""
    import ray

    return ray.is_initialized() and os.environ.get(ADDRESS, "") not in ("", "local")


def _start_own() -> None:
    import ray
    from ray._private import ray_constants

    # Ray takes 127.0.0.1 for a node's address only where it believes that no node can join: on Windows, on a Mac, or when it is told so.
    os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] = "0"
    ray_constants.ENABLE_RAY_CLUSTER = False
    os.environ.pop(ADDRESS, None)
    if not {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    folder = _temporary_folder()
    try:
        ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="ERROR", _temp_dir=str(folder))
    except Exception as error:  # Ray raises that very type where its own processes die as they start
        raise NoCluster(f"Ray does not start: {_line(error)}; its logs lie in {folder}, --local works without it") from error


def _temporary_folder() -> Path:
    """Where Ray keeps sockets and logs: below $RAY_TMPDIR or $TMPDIR; below /tmp where that is too long a path or not ours to write."""
    wanted = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()).absolute() / "ray"
    if _is_usable(wanted):
        return wanted
    for place in ("/tmp", "/var/tmp", "/dev/shm"):
        other = Path(place) / f"ray-{os.getuid()}"
        if _is_usable(other):
            return other
    longest = _LONGEST_SOCKET_BYTES - _SOCKET_BELOW - len("/ray")
    raise NoCluster(f"Ray's sockets cannot lie in {wanted} (of $TMPDIR): set RAY_TMPDIR to a folder of yours of at most {longest} bytes")


def _is_usable(folder: Path) -> bool:
    """Whether sockets fit below a folder, and it is this user's (or it is not there and can be made)."""
    if len(os.fsencode(folder)) + _SOCKET_BELOW > _LONGEST_SOCKET_BYTES:
        return False
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        about = folder.lstat()
    except OSError:
        return False
    return about.st_uid == os.getuid() and folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


def _connect(address: str) -> None:
    """Join a cluster that is told. Whoever does not answer, or not as Ray, is named within seconds."""
    import ray

    told = f"{ADDRESS}={address}"
    if address == "auto":
        address = _noted_address()
        told = f"{address} (of {_note()}, where {ADDRESS}=auto looks)"
    _knock(address, told)
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (OSError, RuntimeError, ValueError) as error:
        raise NoCluster(f"{told}: {_line(error)}") from error
    except ray.exceptions.RayError as error:
        raise NoCluster(f"{told}: {_line(error)}; the token of its head belongs in RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token") from error


def _note() -> Path:
    return Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()) / "ray" / "ray_current_cluster"


def _noted_address() -> str:
    """The address that the last `ray start` of this machine noted."""
    try:
        return _note().read_text().strip()
    except OSError:
        raise NoCluster(f"{ADDRESS}=auto, and no Ray was started on this machine ({_note()} is not there): {_mend()}") from None


def _knock(address: str, told: str) -> None:
    parts = urlsplit(address if "://" in address else f"//{address}")
    try:
        host, port = parts.hostname or "", parts.port or 0
    except ValueError:
        host, port = "", 0
    if not host or not port:
        raise NoCluster(f"{told} is no address: host:port, of the head's `ray start` (6379)")
    try:
        socket.create_connection((host, port), _ANSWER_S).close()
    except (OSError, UnicodeError) as error:
        raise NoCluster(f"{told}: nobody answers ({getattr(error, 'strerror', None) or error}): {_mend()}") from None
    if parts.scheme:  # a client's door: no GCS behind it
        return
    _ask(address, told)


def _ask(address: str, told: str) -> None:
    """Ask a cluster for its name, with our token: ray.init would ask for a quarter of an hour, and not say what is wrong."""
    import grpc
    from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined]  # compiled
    from ray.core.generated.gcs_service_pb2 import GetClusterIdRequest
    from ray.core.generated.gcs_service_pb2_grpc import NodeInfoGcsServiceStub

    loader = AuthenticationTokenLoader.instance()
    loader.reset_cache()
    with_token = os.environ.get("RAY_AUTH_MODE") != "disabled" and loader.has_token(ignore_auth_mode=True)
    headers = loader.get_token_for_http_header(ignore_auth_mode=True) if with_token else {}
    try:
        with grpc.insecure_channel(address) as channel:
            NodeInfoGcsServiceStub(channel).GetClusterId(GetClusterIdRequest(), timeout=_ANSWER_S, metadata=[*headers.items()])
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.UNAUTHENTICATED:
            token = "has another token than ours" if with_token else "asks for a token, and we have none"
            raise NoCluster(f"{told} {token}: copy ~/.ray/auth_token of its head here, or name it by RAY_AUTH_TOKEN_PATH") from None
        raise NoCluster(f"{told}: who answers there is no Ray ({error.code().name.lower()}): {_mend()}") from None


def _mend() -> str:
    return f"start the cluster, or unset {ADDRESS} and a Ray is started here"


def _line(error: Exception) -> str:
    """An error as one line."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def cause_of(error: Exception) -> str:
    """Why a worker is gone, in one line: the exception that it died by or Ray's reason, the node, and where its log lies."""
    text = str(error)
    raised = re.findall(r"^\s*((?:[\w.]+)?(?:Error|Exception|Interrupt|Exit)\b.*)$", text, re.MULTILINE)
    first = next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
    node = re.search(r"ip[=:] ?([\d.]+)", text)
    where = f" on {node[1]}" if node else ""
    return f"{(raised[-1] if raised else first)[:500]}{where}; logs: {_logs()}"


def _logs() -> str:
    from ray._private import worker

    node = worker._global_node
    return str(node.get_logs_dir_path()) if node else "of Ray's session"
