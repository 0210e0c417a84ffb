"""Hands are drawn where they are and in the colour of their side; sheets and tables hold what they are given."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from fitting.hand.mano import LEFT, RIGHT, load_hand_model, pose_either_hand
from hands.drawing.hands import SIDE_COLOURS, draw_hands, draw_mesh, mesh_faces
from hands.drawing.sheets import Worst, sheet, thumbnail
from hands.drawing.space import HandsInSpace, write_space
from hands.drawing.tables import markdown
from hands.drawing.video import VideoFile
from stages.media.frames import images_of


def blank(height: int = 120, width: int = 160) -> np.ndarray:
    return np.full((height, width, 3), 90, np.uint8)


def hand_vertices(side: int) -> np.ndarray:
    """The flat hand, metres about its middle, with its back to the viewer."""
    one = torch.zeros
    vertices = pose_either_hand(load_hand_model(), torch.tensor([side]), one(1, 10), one(1, 3), one(1, 45)).vertices[0].numpy()
    return np.asarray(vertices - (vertices.min(0) + vertices.max(0)) / 2)


def hue_of(canvas: np.ndarray) -> np.ndarray:
    """The mean colour of what was drawn, of length 1."""
    drawn = canvas[(canvas != 90).any(2)].astype(float).mean(0)
    return np.asarray(drawn / np.linalg.norm(drawn))


@pytest.mark.parametrize("side", [LEFT, RIGHT])
def test_a_mesh_has_the_colour_of_its_side_and_lies_where_its_pixels_are(side: int) -> None:
    vertices = hand_vertices(side)
    pixels = vertices[:, :2] * 400 + [80, 60]
    canvas = blank()
    draw_mesh(canvas, vertices, pixels, mesh_faces(side), side)
    colours = [np.array(colour) / np.linalg.norm(colour) for colour in SIDE_COLOURS]
    assert hue_of(canvas) @ colours[side] > hue_of(canvas) @ colours[1 - side]
    rows, columns = np.nonzero((canvas != 90).any(2))
    np.testing.assert_allclose([columns.min(), rows.min()], pixels.min(0), atol=1.5)
    np.testing.assert_allclose([columns.max(), rows.max()], pixels.max(0), atol=1.5)


def test_a_hand_beyond_the_image_or_without_numbers_leaves_it_as_it_is() -> None:
    vertices, faces = hand_vertices(RIGHT), mesh_faces(RIGHT)
    for pixels in (vertices[:, :2] * 400 + [-900, 60], np.full((778, 2), np.nan)):
        canvas = blank()
        draw_mesh(canvas, vertices, pixels, faces, RIGHT)
        assert (canvas == 90).all()


def test_boxes_have_the_colours_of_their_sides_and_dropped_ones_are_grey() -> None:
    box = np.array([[10.0, 10, 60, 60], [90, 10, 140, 60], [10, 70, 60, 110]])
    side, score, nothing = np.array([LEFT, RIGHT, RIGHT]), np.array([0.9, 0.8, 0.7]), np.zeros((3, 21, 3))
    canvas = blank()
    draw_hands(canvas, side, box, score, nothing, dropped=np.array([False, False, True]), labels=False)
    np.testing.assert_allclose(canvas[35, 10], SIDE_COLOURS[LEFT], atol=20)
    np.testing.assert_allclose(canvas[35, 90], SIDE_COLOURS[RIGHT], atol=20)
    grey = canvas[72:109, 10][(canvas[72:109, 10] != 90).any(1)]
    assert 0 < len(grey) < 37, "dashed"
    assert (np.ptp(grey.astype(int), axis=1) < 20).all()
    labelled = blank()
    draw_hands(labelled, side, box, score, nothing)
    assert (labelled != canvas).any()


def test_keypoints_without_confidence_are_left_out() -> None:
    keypoints = np.zeros((1, 21, 3))
    keypoints[0, :, :2] = np.linspace([20, 20], [140, 100], 21)
    for confidence in (0.0, 1.0):
        keypoints[0, :, 2] = confidence
        canvas = blank()
        draw_hands(canvas, np.array([RIGHT]), np.full((1, 4), -50.0), np.ones(1), keypoints, labels=False)
        assert (canvas == 90).all() == (confidence == 0)


def test_a_sheet_fills_its_last_line_with_black() -> None:
    images = [np.full((4, 6, 3), k + 1, np.uint8) for k in range(3)]
    made = sheet(images, 2)
    assert made.shape == (8, 12, 3)
    assert made[::4, ::6, 0].tolist() == [[1, 2], [3, 0]]
    assert thumbnail(np.full((50, 100, 3), 9, np.uint8), 40, "a").shape == (40, 40, 3)


def test_the_worst_are_kept_and_only_those_are_drawn() -> None:
    worst, drawn = Worst(count=2), []

    def draw(name: int) -> np.ndarray:
        drawn.append(name)
        return np.full((2, 2, 3), name, np.uint8)

    for name, faults in enumerate((1, 3, 0, 2, 2)):
        worst.offer(faults, lambda name=name: draw(name))  # type: ignore[misc]
    assert [int(image[0, 0, 0]) for image in worst.images()] == [1, 3]
    assert drawn == [0, 1, 3], "neither one without faults nor one that is no worse than those kept"


def test_a_number_that_is_not_known_leaves_its_cell_empty() -> None:
    table = markdown(("name", "value"), [("a", 0.5), ("b", float("nan")), ("c", 3)], "{:.2f}")
    assert table.splitlines() == ["| name | value |", "| --- | ---: |", "| a | 0.50 |", "| b |  |", "| c | 3 |"]


def test_an_image_of_another_size_is_shown_whole_in_a_film(tmp_path: Path) -> None:
    """A film that turns from landscape to portrait was drawn stretched, and without what lies lowest."""
    with VideoFile(tmp_path / "a.mp4", Fraction(10), (64, 96, 3)) as film:
        film.add(np.full((64, 96, 3), 255, np.uint8))
        film.add(np.full((96, 48, 3), 255, np.uint8))
    _, second = [image for _, image in images_of(tmp_path / "a.mp4")]
    assert second.shape == (64, 96, 3)
    bright = second.mean(2) > 128
    assert bright[:, 34:62].all()
    assert not bright[:, :30].any()
    assert not bright[:, 66:].any()


def test_a_table_of_hands_in_space_says_its_axes_and_its_source(tmp_path: Path) -> None:
    """Whose hands they are took the place of what their numbers mean."""
    shapes = {"box": (4,), "betas": (10,), "global_orient": (3,), "hand_pose": (45,), "transl": (3,), "joints_3d": (21, 3)}
    shapes |= {"joints_2d": (21, 2), "vertices": (778, 3), "vertices_2d": (778, 2)}
    whole = {name: np.zeros(0, np.int64) for name in ("frame", "track", "side")}
    real = {name: np.zeros((0, *shapes.get(name, ())), np.float32) for name in (*shapes, "time_s", "score", "focal_px")}
    image = np.zeros((8, 8, 3), np.uint8)
    write_space(tmp_path, "a", "a.png", HandsInSpace(**whole, **real), lambda: [(0, image)], None, "none")
    told = pq.read_schema(tmp_path / "a.parquet").metadata
    assert told[b"source"].endswith(b"/a.png")
    assert b"z forward, metres" in told[b"frame_of_reference"]
