"""A detector is added in one short file, without a change anywhere else."""

from pathlib import Path

import numpy as np

from pipeline.engine.graph import Graph
from pipeline.engine.nodes.executor import Local
from pipeline.engine.run import run
from pipeline.engine.store import Store
from pipeline.manifest import read_manifest
from pipeline.recipes import find_recipe
from stages.tables import HandDetections, Hands

FILE = Path(__file__).resolve().parents[2] / "docs" / "new_detector.py"


def test_one_file_of_under_120_lines_adds_a_detector_whose_word_fusion_weighs(media: Path, tmp_path: Path) -> None:
    assert len(FILE.read_text().splitlines()) < 120
    manifest = read_manifest(media / "videos" / "intel" / "asl_yes.mkv")
    stages = find_recipe(f"{FILE}:recipe")(manifest, tmp_path)
    stages = stages[: [stage.name for stage in stages].index("fuse-hands") + 1]
    run(Graph(stages, manifest, Store(tmp_path)).load(), Local(tmp_path, stages))
    (part,) = (tmp_path / "hand_detections" / "skin").glob("*.parquet")
    found = Store(tmp_path).read(HandDetections, "hand_detections/skin", part.stem)
    hands = Store(tmp_path).read(Hands, "hands", part.stem)
    assert len(found)
    assert set(found.source) == {"skin"}
    assert np.isfinite(found.box).all()
    assert len(hands)
    assert (hands.num_run >= 2).all(), "the new detector has a voice about every hand"
    assert any("skin" in sources for sources in hands.sources)
