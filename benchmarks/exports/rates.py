"""`make bench-exports`: rows/s and peak memory of every export of 100,000 hands, and whether its own library reads it back equal.

The hands are those of a small folder of shards, many times over under other names; each format is written by a process of its own, once of
a tenth and once of all, so that memory that grows with the data shows. Read back is the small folder: equality does not depend on size.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.machine import describe

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
ENVIRONMENTS = {"yolo": ".env-ultralytics", "fiftyone": ".env-fiftyone", "huggingface": "", "parquet": "", "csv": ""}
"""Where each format's library is; '' ours, the others `.env-exports`."""
COPIES_A_SHARD = 400
ROOM = 1.5
"""Memory of all the hands over that of a tenth of them, beyond which it is said to grow."""


def environment_of(format: str) -> Path:
    """The Python that a format's library is installed in."""
    name = ENVIRONMENTS.get(format, ".env-exports")
    return ROOT / name / "bin" / "python" if name else Path(sys.executable)


def write(format: str, data: Path, out: Path, *options: str) -> None:
    """Export by the command, in the environment that has the library where it writes by one."""
    python = environment_of(format) if format == "rerun" else Path(sys.executable)
    command = [str(python), "-m", "pipeline", "export", format, str(data), "--out", str(out), *options]
    subprocess.run(command, check=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}, stdout=sys.stderr)


def found_by(format: str, folder: Path) -> dict[str, Any]:
    """Boxes, keypoints and sides that a format's own library finds in an export."""
    command = [str(environment_of(format)), str(HERE / "read_back.py"), format, str(folder.absolute())]
    quiet = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "FIFTYONE_DO_NOT_TRACK": "1", "YOLO_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | quiet, check=False)
    if done.returncode:
        raise RuntimeError(f"{format}: {done.stderr.strip()[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def many(data: Path, folder: Path, num_hands: int) -> Path:
    """The shards of a folder over and over under other names, until there are so many hands."""
    if (folder / "done").exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    sources = {path.parent.name: pq.read_table(path) for path in sorted((data / "shards").glob("*/*.parquet"))}
    count = sum(len(table["hands"].combine_chunks().flatten()) for table in sources.values())
    copies = range(-(-num_hands // count))
    for split, table in sources.items():
        for start in range(0, len(copies), COPIES_A_SHARD):
            some = pa.concat_tables([_renamed(table, copy) for copy in copies[start : start + COPIES_A_SHARD]])
            target = folder / "shards" / split / f"{split}-{start:05d}-of-99999.parquet"
            target.parent.mkdir(parents=True, exist_ok=True)
            facts = {**(table.schema.metadata or {}), b"fingerprint": f"{start}".encode()}
            for mark in (b"sealed", b"file_sha256"):  # of the small shard's own bytes
                facts.pop(mark, None)
            options = {"compression": {"image": "none"}, "use_dictionary": False, "row_group_size": 128}
            pq.write_table(some.replace_schema_metadata(facts), target, **options)
    (folder / "done").touch()
    return folder


def _renamed(table: pa.Table, copy: int) -> pa.Table:
    """The rows as those of another video."""
    for name in ("video", "clip", "sample"):
        texts = pa.array([f"x{copy}-{text}" for text in table[name].to_pylist()], pa.string())
        table = table.set_column(table.schema.get_field_index(name), table.schema.field(name), texts)
    return table


def measured(format: str, data: Path, out: Path) -> tuple[float, float]:
    """Seconds and peak MB of an export, in a process of its own."""
    code = (
        "import sys, time, whim; started = time.monotonic(); assert whim.main(sys.argv[1:]) == 0; took = time.monotonic() - started;"
        "peak = [line for line in open('/proc/self/status') if line.startswith('VmHWM')][0]; print(took, int(peak.split()[1]) / 1024)"
    )
    python = environment_of(format) if format == "rerun" else Path(sys.executable)
    command = [str(python), "-c", code, "export", format, str(data), "--out", str(out), "--quiet"]
    done = subprocess.run(
        command, check=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, text=True
    )
    seconds, peak_mb = map(float, done.stdout.split()[-2:])
    return seconds, peak_mb


def main() -> None:
    """Write benchmarks/results/exports.json."""
    from pipeline.exports.formats import FORMATS
    from tests.pipeline.exports.shards import as_held, same, truth, write_small_shards

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hands", type=int, default=100_000)
    parser.add_argument("--folder", type=Path, default=Path("data/bench-exports"))
    parser.add_argument("--formats", nargs="+", default=list(FORMATS))
    parser.add_argument("--out", type=Path, default=HERE.parent / "results" / "exports.json")
    arguments = parser.parse_args()
    small = arguments.folder / "small"
    if not (small / "shards" / "index.json").exists():
        write_small_shards(small)
    data = {
        share: many(small, arguments.folder / f"hands-{share * arguments.hands:.0f}", int(share * arguments.hands)) for share in (0.1, 1.0)
    }
    figures: dict[str, Any] = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    figures |= {"machine": describe(), "formats": figures.get("formats", {})}
    for format in arguments.formats:
        out = arguments.folder / "out"
        told: dict[str, Any] = {}
        shutil.rmtree(out, ignore_errors=True)
        write(format, small, out)
        try:
            same(found_by(format, out)["hands"], as_held(format, truth(small)))
            told["read_back_equal"] = True
        except AssertionError as error:
            told |= {"read_back_equal": False, "why": str(error).splitlines()[0]}
        peaks = {}
        for share, folder in data.items():
            shutil.rmtree(out, ignore_errors=True)
            seconds, peaks[share] = measured(format, folder, out)
        shutil.rmtree(out, ignore_errors=True)
        told |= {
            "hands": arguments.hands,
            "rows_per_s": round(arguments.hands / seconds),
            "peak_mb": round(peaks[1.0]),
            "peak_mb_of_a_tenth": round(peaks[0.1]),
        }
        told["memory_flat"] = peaks[1.0] < ROOM * peaks[0.1]
        figures["formats"][format] = told
        print(format, json.dumps(told), flush=True)
        arguments.out.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
