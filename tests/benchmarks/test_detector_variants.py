"""Detectors measured beside the one that ships: each under its own name with what it found, and one network by two engines alike."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.networks import detector_variants
from benchmarks.networks.detector_real import network_look
from benchmarks.networks.detector_variants import by_onnxruntime, by_openvino
from stages.propose_hands_whim import SHIPPED
from tests.labelled_pictures import labelled


def test_each_training_is_measured_under_its_data_and_keeps_what_was_measured_before(
    media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = json.loads((media / "labels" / "bench_A.json").read_text())
    some = [row for row in rows["images"] if "open_palm" in (row["video"] or "")]
    (tmp_path / "labels.json").write_text(json.dumps(rows | {"images": some}))
    out = tmp_path / "found.json"
    out.write_text(json.dumps({"one_pass": 1, "by_training": {"darknet: a": 2}}))
    words = ["detector_variants", "--labels", str(tmp_path / "labels.json"), "--media", str(media), "--out", str(out)]
    monkeypatch.setattr("sys.argv", [*words, "--training", str(SHIPPED.with_suffix(".pt")), "films"])
    detector_variants.main()
    found = json.loads(out.read_text())
    assert (found["one_pass"], found["by_training"].pop("darknet: a")) == (1, 2)
    ((name, figures),) = found["by_training"].items()
    assert name == "palm: films"
    assert (figures["image_px"], figures["recall_at_p90"]) == (416, 1.0), "it learned from these very frames"
    assert figures["pictures_seen"] == 7680


def test_openvino_finds_what_onnxruntime_does(media: Path) -> None:
    pytest.importorskip("openvino")
    image, _ = labelled(media, "A044")
    ours, theirs = (network_look(opened(SHIPPED))(image) for opened in (by_onnxruntime, by_openvino))
    sure = [np.sort(one.box[one.score > 0.3], axis=0) for one in (ours, theirs)]
    assert len(sure[0]) == len(sure[1]) == 2
    np.testing.assert_allclose(sure[0], sure[1], atol=4)
