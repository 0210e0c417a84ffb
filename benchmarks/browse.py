"""`whim browse` on a made-up folder of two million hands: seconds to the first page and to filters, memory of the server.

The tables have the real schema and random numbers, no image; the server is the real one, in a process of its own, asked over http as the
page asks it. Figures of the page are those of its hands and counts, without thumbnails, which load as they come into view.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit
from urllib.request import Request, urlopen

import numpy as np
import pyarrow as pa

from benchmarks.machine import describe
from pipeline.engine.files.part import write_part
from pipeline.engine.store import Store
from stages.tables import Clips, Fits, Hands, Reviews, Table, Videos

OUT = Path(__file__).parent / "results" / "browse.json"
HANDS_OF_CLIP, CLIPS_OF_VIDEO = 1000, 20
FILTERS = (
    "keep and quality > .8 and side = left",
    "video = 'video0003' and reason = 'weak_source'",
    "sources = 'whim' and size_px between 60 and 90 and signer = 's3' or error_px > 6",
)
REASONS = ("", "", "", "", "weak_source", "joint_limits", "too_small")


def main() -> None:
    """Make the folder up, start the server, ask, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hands", type=int, default=2_000_000)
    parser.add_argument("--folder", type=Path, default=Path("data/bench_browse"))
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    make_up(arguments.folder, arguments.hands)
    found = measure(arguments.folder) | {"hands": arguments.hands, "machine": describe()}
    arguments.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


def make_up(folder: Path, num_hands: int) -> None:
    """Tables of so many hands; what is there already stays."""
    rng, store = np.random.default_rng(0), Store(folder)
    bank = rng.normal(0, 0.4, (2048, 45)).astype(np.float32)
    rows = {kind: _blank(kind, HANDS_OF_CLIP) for kind in (Hands, Fits, Reviews)}
    num_clips = -(-num_hands // HANDS_OF_CLIP)
    for number in range(-(-num_clips // CLIPS_OF_VIDEO)):
        video = f"video{number:04d}"
        if store.has("clips", video):
            continue
        count = min(CLIPS_OF_VIDEO, num_clips - number * CLIPS_OF_VIDEO)
        for clip in range(count):
            for kind, table in rows.items():
                name = f"{kind.__name__.lower()}"
                _write(store, name, f"{video}-{clip:04d}", _replaced(table, _values(rng, kind, video, clip, bank)))
        _write(
            store, "videos", video, _replaced(_blank(Videos, 1), {"video": [video], "extra": [json.dumps({"signer": f"s{number % 9}"})]})
        )
        of_video = {"video": [video] * count, "clip": [f"{video}-{i:04d}" for i in range(count)], "num_frames": [500] * count}
        of_video |= {"first_frame": [500 * i for i in range(count)]}
        _write(store, "clips", video, _replaced(_blank(Clips, count), of_video))


def _values(rng: np.random.Generator, kind: type[Table], video: str, clip: int, bank: np.ndarray) -> dict[str, Any]:
    n = HANDS_OF_CLIP
    common = {"video": [video] * n, "frame": 500 * clip + np.arange(n) // 2, "time_s": (500 * clip + np.arange(n) // 2) / 25}
    common |= {"hand": (np.arange(n) % 2).astype(np.int16)}
    if kind is Hands:
        corner, size = rng.uniform(0, 900, (n, 2)), rng.gamma(6, 15, (n, 2))
        seen = [["mediapipe", "whim"], ["mediapipe"], ["whim"]]
        box = np.concatenate([corner, corner + size], 1).astype(np.float32)
        numbers = {"score": rng.beta(6, 2, n).astype(np.float32), "side": rng.integers(0, 2, n).astype(np.int8), "box": box}
        sources = [seen[i] for i in rng.integers(0, 3, n)]
        return common | numbers | {"sources": sources, "width": np.full(n, 1280, np.int32), "height": np.full(n, 720, np.int32)}
    if kind is Fits:
        error = {"error_px": rng.gamma(2, 1.2, n).astype(np.float32), "outcome": ["converged"] * n}
        return common | error | {"hand_pose": bank[rng.integers(0, len(bank), n)]}
    reasons = [REASONS[i] for i in rng.integers(0, len(REASONS), n)]
    return common | {"quality": rng.beta(8, 2, n).astype(np.float32), "reason": reasons, "keep": [not reason for reason in reasons]}


def _blank(kind: type[Table], n: int) -> pa.Table:
    """Rows of a table in its schema: zeros and empty texts."""
    empty = kind.empty()
    columns = {name: np.zeros((n, *column.shape[1:]), column.dtype) for name, column in vars(empty).items() if column.dtype != object}
    for field in kind.schema():
        if field.name not in columns:
            column = np.empty(n, object)
            blank: list[object] = [[] for _ in range(n)] if pa.types.is_list(field.type) else [""] * n
            column[:] = blank
            columns[field.name] = column
    return kind(**columns).to_arrow()


def _replaced(table: pa.Table, values: dict[str, Any]) -> pa.Table:
    for name, value in values.items():
        place = table.schema.get_field_index(name)
        field = table.schema.field(place)
        if isinstance(value, np.ndarray) and value.ndim == 2:
            array = pa.FixedSizeListArray.from_arrays(pa.array(value.reshape(-1)), value.shape[1])
        else:
            array = pa.array(value, field.type)
        table = table.set_column(place, field, array)
    return table


def _write(store: Store, table: str, key: str, rows: pa.Table) -> None:
    path = store.part(table, key)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_part(rows, path)


def measure(folder: Path) -> dict[str, Any]:
    """Start the server twice, to make its index and to find it; ask both, and take their peaks of memory."""
    first = Server(folder)
    first.ask("/api/hands", limit=60)
    made = {"index_s": first.ready_s, "index_peak_mb": first.stop()}
    server = Server(folder)
    start = time.perf_counter()
    server.ask("/")
    server.ask("/api/about")
    total = server.ask("/api/hands", limit=60)["total"]
    page_s = time.perf_counter() - start
    filters, facets = {}, {}
    for where in FILTERS:
        start = time.perf_counter()
        found = server.ask("/api/hands", where=where, sort="quality", descending=1, limit=60)
        filters[where] = round(time.perf_counter() - start, 3)
        assert 0 < found["total"] < total
        start = time.perf_counter()
        server.ask("/api/facets", where=where)
        facets[where] = round(time.perf_counter() - start, 3)
    server.ask("/api/poses", where=FILTERS[0])
    return {
        "first_page_s": round(page_s, 3),
        "filter_s": max(filters.values()),
        "peak_mb": round(server.stop()),
        "facets_s": max(facets.values()),
        "start_s": round(server.ready_s, 2),
        "index_s": round(made["index_s"], 1),
        "index_peak_mb": round(made["index_peak_mb"]),
        "filters": filters,
        "num_listed": total,
    }


class Server:
    """`whim browse` in a process of its own."""

    def __init__(self, folder: Path) -> None:
        start = time.perf_counter()
        command = [sys.executable, "-m", "pipeline", "browse", str(folder), "--port", "0"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})
        assert self.process.stdout is not None
        address = next(found[0] for line in self.process.stdout if (found := re.search(r"http://\S+", line)))
        self.ready_s = time.perf_counter() - start
        parts = urlsplit(address)
        self.base, self.token = f"http://{parts.netloc}", parts.query.removeprefix("token=")

    def ask(self, path: str, **query: Any) -> Any:
        """The answer to a GET."""
        request = Request(f"{self.base}{path}?{urlencode(query)}", headers={"X-Token": self.token})
        with urlopen(request, timeout=600) as response:
            content = response.read()
        return json.loads(content) if path.startswith("/api") else content

    def stop(self) -> float:
        """End it; the most memory that it held, MB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        self.process.terminate()
        self.process.wait(30)
        return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024  # type: ignore[index]


if __name__ == "__main__":
    main()
