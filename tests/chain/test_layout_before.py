"""A data folder made before `person_detections` and `people` were two tables goes on: no detector runs, no video is looked at."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import pyarrow.parquet as pq
import pytest

from pipeline.engine.finish import Where, finish
from pipeline.engine.graph import Graph
from pipeline.engine.store import Store
from pipeline.manifest import read_manifest
from pipeline.recipes import fast
from pipeline.recipes import whim as whim_now
from stages.detect_people_blazepose import DetectPeople
from stages.digest import fingerprint_of
from stages.fuse_hands import FuseHands
from stages.shards import shard_of
from stages.stage import Stage
from stages.tables import Clips, Manifest, Videos
from tests.chain.conftest import plan

Whim = Callable[..., Any]
OF_CLIPS = ("hand_proposals/whim", "hand_detections/mediapipe", "hand_detections/whim", "hands", "refused_hands", "fits", "reviews")


def then(manifest: Manifest, root: Path) -> list[Stage]:
    """The recipe of then: people by BlazePose, hands by two detectors, of which one reads what the other found."""
    return [DetectPeople() if stage.detector == "movenet" else stage for stage in whim_now(manifest, root)]


RECIPE = ("--recipe", f"{__file__}:then")


@pytest.fixture(scope="session")
def of_then(few_videos: Path, whim: Whim, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder of one whole run by the detectors of then."""
    data = tmp_path_factory.mktemp("then") / "data"
    whim("run", "--local", *RECIPE, "--videos", few_videos, "--data", data, status=2)  # the empty file is no video
    return data


@pytest.fixture
def before(of_then: Path, tmp_path: Path) -> Path:
    """The folder as the code of before wrote it: other folders, no digests, other fingerprints from the hand detectors on."""
    data = shutil.copytree(of_then, tmp_path / "data")
    shutil.rmtree(data / "people")
    (data / "person_detections").rename(data / "people")
    known: dict[str, str] = {}
    for part in (data / "videos").glob("*.parquet"):
        rewrite(part, recipe_of(part), without=tuple(Videos.young_columns()))
    for part in (data / "clips").glob("*.parquet"):
        rewrite(part, renewed(recipe_of(part) | {"version": 1}, known), without=tuple(Clips.young_columns()))
    for part in (data / "people").rglob("*.parquet"):
        rewrite(part, renewed(recipe_of(part), known))
    for part in (data / "people").rglob("*.parquet"):
        rewrite(part, recipe_of(part), without=("source",))
    for table in OF_CLIPS:
        for part in sorted((data / table).glob("*.parquet")):
            recipe = recipe_of(part)
            now = recipe.pop("fingerprint")
            if table == "refused_hands":
                recipe |= {"stage": "refuse-hands", "settings": {"fuse": str(FuseHands(detectors=("mediapipe", "whim")))}}
            recipe["upstream"] = {
                (name if not name.startswith("people/") else f"people/blazepose/{part.stem}"): known.get(one, one)
                for name, one in recipe["upstream"].items()
            }
            people = f"people/blazepose/{part.stem}"
            if people in recipe["upstream"]:
                recipe["upstream"][people] = recipe_of(data / f"{people}.parquet")["fingerprint"]
            made = fingerprint_of(recipe)
            known.setdefault(now, made)
            rewrite(part, {**recipe, "fingerprint": made})
    for shard in (data / "shards").rglob("*.parquet"):
        recipe = recipe_of(shard)
        recipe.pop("fingerprint")
        clips = [p for p in (data / "reviews").glob("*.parquet") if shard_of(p.stem[:-5], "", 1) == recipe["key"]]
        upstream = {f"reviews/{clip.stem}": recipe_of(clip)["fingerprint"] for clip in clips}
        rewrite(shard, {**recipe, "fingerprint": fingerprint_of({**recipe, "upstream": upstream})})
    return data


def recipe_of(part: Path) -> dict[str, Any]:
    recipe: dict[str, Any] = json.loads(pq.read_schema(part).metadata[b"recipe"])
    return recipe


def renewed(recipe: dict[str, Any], known: dict[str, str]) -> dict[str, Any]:
    """A recipe with the fingerprint that it has when those of what it is made from are others; `known` learns it."""
    now = recipe.pop("fingerprint")
    recipe["upstream"] = {name: known.get(one, one) for name, one in recipe["upstream"].items()}
    known[now] = fingerprint_of(recipe)
    return {**recipe, "fingerprint": known[now]}


def rewrite(part: Path, recipe: dict[str, Any], *, without: tuple[str, ...] = ()) -> None:
    table = pq.read_table(part).drop_columns(list(without))
    facts = {key: value for key, value in table.schema.metadata.items() if key != b"digest"}
    facts[b"recipe"] = json.dumps(recipe, sort_keys=True).encode()
    if b"fingerprint" in facts:  # a shard says it twice
        facts[b"fingerprint"] = recipe["fingerprint"].encode()
    pq.write_table(table.replace_schema_metadata(facts), part)


def modified(data: Path, *tables: str) -> dict[str, int]:
    return {part.stem: part.stat().st_mtime_ns for table in tables for part in (data / table).rglob("*.parquet")}


def samples(data: Path) -> dict[str, str]:
    """Rows of every shard as text: an unknown number (NaN) is the same as itself."""
    return {shard.stem: repr(pq.read_table(shard).to_pylist()) for shard in (data / "shards").rglob("*.parquet")}


def test_videos_of_a_folder_made_before_are_split_anew_and_people_joined_and_no_detector_runs(before: Path, whim: Whim) -> None:
    num_clips, num_videos = (len(list((before / table).glob("*.parquet"))) for table in ("people/blazepose", "clips"))
    asked = plan(whim, *RECIPE, "--data", before)["by_stage"]
    assert {stage: asked[stage] for stage in ("download", "split")} == {
        stage: {"code version changed": num_videos} for stage in ("download", "split")
    }
    assert not {"detect-people", "detect-hands"} & asked.keys()
    persons, others, shards = modified(before, "people"), modified(before, *OF_CLIPS), samples(before)
    (before / "runs").rename(before.parent / "earlier_runs")
    whim("run", "--local", *RECIPE, "--data", before, status=2)  # the empty file is no video
    receipts = [json.loads(line) for log in (before / "runs").iterdir() for line in log.read_text().splitlines()]
    num_shards = len(list((before / "shards").rglob("*.parquet")))  # packed anew, for the columns that videos and clips have now
    assert len(receipts) == num_clips + 2 * num_videos + num_shards
    assert all(receipt["decode_s"] == 0 for receipt in receipts)
    assert modified(before, "person_detections/blazepose") == persons
    assert modified(before, *OF_CLIPS) == others
    assert samples(before) == shards
    assert plan(whim, *RECIPE, "--data", before)["num_pending"] == 0
    assert json.loads(whim("status", "--json", *RECIPE, "--data", before).stdout)["stages"]["review"]["done"] == num_clips


def test_a_part_of_before_that_was_made_by_other_settings_is_made_again(before: Path, whim: Whim) -> None:
    part = next((before / "fits").glob("asl_yes*.parquet"))
    recipe = recipe_of(part)
    recipe["settings"]["num_iterations"] = 3
    recipe.pop("fingerprint")
    rewrite(part, {**recipe, "fingerprint": fingerprint_of(recipe)})
    whim("run", "--local", "--until", "split", *RECIPE, "--data", before, status=2)
    wanted = plan(whim, *RECIPE, "--data", before)["by_stage"]
    assert wanted["fit"] == {"settings changed": 1}
    assert wanted["review"] == {"upstream changed": 1}
    assert "detect-hands" not in wanted


def test_a_run_of_before_that_had_not_got_far_goes_on_from_there(before: Path, whim: Whim) -> None:
    lost = next((before / "hand_detections/mediapipe").glob("asl_yes*.parquet"))
    lost.unlink()
    whim("run", "--local", "--until", "split", *RECIPE, "--data", before, status=2)
    wanted = plan(whim, *RECIPE, "--data", before)["by_stage"]
    assert wanted["detect-hands"] == {"new": 1, "upstream changed": 1}, "that of the detector that reads what this one found"
    assert "detect-people" not in wanted


def test_where_the_videos_were_put_away_the_clips_of_then_stay(before: Path, whim: Whim) -> None:
    rows = {part: pq.read_table(part) for part in (before / "videos").glob("*.parquet")}
    for part, row in rows.items():
        path = row.schema.get_field_index("path")
        gone = row.set_column(path, row.schema.field(path), [[f"/put/away/{part.stem}.mkv"]])
        pq.write_table(gone.replace_schema_metadata({k: v for k, v in row.schema.metadata.items() if k != b"digest"}), part)
    asked = plan(whim, *RECIPE, "--data", before)["by_stage"]
    assert not {"download", "split", "detect-people", "detect-hands"} & asked.keys()
    assert asked["fuse-people"]


def test_a_file_that_tells_its_camera_is_asked_and_its_hands_fitted_anew_in_one_run(tmp_path: Path) -> None:
    program, tag = imageio_ffmpeg.get_ffmpeg_exe(), "com.apple.quicktime.camera.focal_length.35mm_equivalent=26"
    source = ["-f", "lavfi", "-i", "testsrc=size=128x96:rate=5:duration=1", "-movflags", "use_metadata_tags", "-metadata", tag]
    subprocess.run([program, "-loglevel", "error", *source, tmp_path / "a.mov"], check=True)
    manifest, store = read_manifest(tmp_path / "a.mov"), Store(tmp_path / "data")

    def run() -> set[tuple[str, str]]:
        graph = Graph(fast(manifest, store.root), manifest, store).load()
        pending = {(graph.stages[task.stage].name, str(task.why)) for task in graph.pending}
        finish(graph, Where(local=True), on_outcome=lambda task, outcome: None)
        return pending

    run()
    videos, fits = store.part("videos", "a"), store.part("fits", "a-0000")
    told = recipe_of(fits)["item"]["camera"]
    assert told["from"] == "metadata"
    rewrite(videos, recipe_of(videos), without=("camera",))
    recipe = {name: value for name, value in recipe_of(fits).items() if name != "fingerprint"} | {"item": {}}
    rewrite(fits, recipe | {"fingerprint": fingerprint_of(recipe)})
    assert run() == {("download", "more is asked of its file"), ("review", "upstream changed")}
    assert recipe_of(fits)["item"]["camera"] == told
    assert run() == set()
