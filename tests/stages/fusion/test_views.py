"""Hands that several views of a bent camera show: each once, by the view that shows it better, in the video's own pixels."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from stages.cameras.said import cameras_of
from stages.cameras.views import camera_of_view, in_view, rays_of, to_source
from stages.fusion.views import _directions, as_numbered, in_video, placed, seen_before, swapped, told_apart
from stages.tables import RefusedHands
from tests.small_tables import columns

SPHERE = cameras_of(json.dumps({"from": "manifest", "projection": "equirectangular"}), 2400, 1200)
FISHEYE = cameras_of(json.dumps({"from": "manifest", "projection": "fisheye", "hfov_deg": 90}), 1600, 1200)
"""Looked at through one view, wider than it is high."""
VIEWS = [int(view) for view in SPHERE.view if view >= 0]


def ray(degrees: float, up: float = 0.0) -> np.ndarray:
    """To the right of the axis by so much, and above the horizon."""
    a, b = np.radians([degrees, up])
    return np.array([np.sin(a) * np.cos(b), -np.sin(b), np.cos(a) * np.cos(b)])


def hands(*rows: tuple[int, list[float]], frame: int = 0) -> RefusedHands:
    """Boxes in views, landmarks along their diagonals."""
    n = len(rows)
    box = np.array([box for _, box in rows], np.float64)
    share = np.linspace(0, 1, 21)[None, :, None]
    keypoints = np.concatenate([box[:, None, :2] * (1 - share) + box[:, None, 2:] * share, np.ones((n, 21, 1))], 2)
    found = columns(RefusedHands, n, view=np.array([view for view, _ in rows]), box=box, keypoints=keypoints, frame=np.full(n, frame))
    assert isinstance(found, RefusedHands)
    return found


def at(view: int, degrees: float, size: float = 5.0) -> tuple[int, list[float]]:
    """A hand on the horizon of so many degrees across, and down."""
    left, right = (in_view(SPHERE, view, ray(degrees + turn))[0] for turn in (-size / 2, size / 2))
    top, bottom = (in_view(SPHERE, view, ray(degrees, turn))[1] for turn in (size / 2, -size / 2))
    return view, [left, top, right, bottom]


def showing(degrees: float, up: float = 0.0) -> list[int]:
    """Views in which a direction lies, the nearest to its axis first."""
    found = []
    for view in VIEWS:
        camera, pixel = camera_of_view(SPHERE, view), in_view(SPHERE, view, ray(degrees, up))
        if np.isfinite(pixel).all() and (pixel > 40).all() and pixel[0] < camera.width - 40 and pixel[1] < camera.height - 40:
            found.append((float(np.linalg.norm(pixel - np.array([camera.width, camera.height]) / 2)), view))
    return [view for _, view in sorted(found)]


def in_this(view: int, hand: RefusedHands) -> list[float] | None:
    """Where another view shows a hand, if it shows it with room around."""
    camera = camera_of_view(SPHERE, view)
    corners = in_view(SPHERE, view, rays_of(SPHERE, int(hand.view[0]), hand.box.reshape(2, 2).astype(np.float64)))
    inside = np.isfinite(corners).all() and (corners > 80).all() and (corners < np.array([camera.width, camera.height]) - 80).all()
    return [*corners.min(0).tolist(), *corners.max(0).tolist()] if inside else None


def between() -> tuple[float, list[int]]:
    """A direction on the horizon that two views show."""
    return next((degrees, views) for degrees in np.arange(1.0, 180) for views in [showing(degrees)] if len(views) >= 2)


def test_numbers_of_people_differ_from_view_to_view_and_come_back() -> None:
    person, view = np.array([-1, 0, 3, 255], np.int16), np.array([2, 1, 0, 2], np.int16)
    apart = told_apart(person, view)
    assert apart.tolist() == [-1, 256, 3, 767]
    assert as_numbered(apart).tolist() == person.tolist()


def test_a_hand_that_two_views_show_is_once_there_by_the_view_that_shows_it_whole_or_nearer_to_its_axis() -> None:
    degrees, (near, far, *_) = between()
    both = hands(at(far, degrees), at(near, degrees))
    assert seen_before(both, SPHERE).tolist() == [True, False]
    assert seen_before(both.take(np.array([1, 0])), SPHERE).tolist() == [False, True]
    camera = camera_of_view(SPHERE, near)
    border = at(near, degrees, 5.0)[1]
    to_the_edge = camera.width - 1 - border[2] if border[2] > camera.width / 2 else 1 - border[0]
    cut = hands((near, [border[0] + to_the_edge, border[1], border[2] + to_the_edge, border[3]]))
    whole = next((view, box) for view in VIEWS if view != near for box in [in_this(view, cut)] if box is not None)
    assert seen_before(RefusedHands.concat([cut, hands(whole)]), SPHERE).tolist() == [True, False], "the one that its view does not cut"


@pytest.mark.parametrize(
    ("change", "same"), [((0.0, 1.0), True), ((0.4, 1.0), True), ((0.7, 1.0), False), ((0.0, 2.2), True), ((0.0, 2.9), False)]
)
def test_two_hands_of_two_views_are_one_where_near_and_alike(change: tuple[float, float], same: bool) -> None:
    """Near: half of the larger one's size; alike: 2.5 times as large at most."""
    degrees, (near, far, *_) = between()
    shift, larger = change
    one, other = at(near, degrees), at(far, degrees + shift * 5 * max(larger, 1), 5 * larger)
    for rows in ((one, other), (other, one)):
        assert seen_before(hands(*rows), SPHERE).sum() == (1 if same else 0)


def test_two_hands_of_one_view_or_of_two_frames_stay_two_and_each_takes_one_of_another_view() -> None:
    degrees, (near, far, *_) = between()
    assert not seen_before(hands(at(near, degrees), at(near, degrees)), SPHERE).any()
    two_frames = RefusedHands.concat([hands(at(near, degrees)), hands(at(far, degrees), frame=1)])
    assert not seen_before(two_frames, SPHERE).any()
    pair = hands(at(near, degrees), at(near, degrees), at(far, degrees), at(far, degrees), at(far, degrees))
    assert seen_before(pair, SPHERE).tolist() == [False, False, True, True, False]


def test_of_two_hands_that_one_could_be_it_is_the_nearer() -> None:
    degrees, (near, far, *_) = between()
    axis = np.degrees(np.arctan2(*rays_of(SPHERE, far, np.array([camera_of_view(SPHERE, far).principal]))[0, [0, 2]]))
    on = 1 if (axis - degrees) % 360 < 180 else -1
    four = hands(at(near, degrees), at(near, degrees + 2.0 * on), at(far, degrees + 0.3 * on), at(far, degrees - 2.2 * on))
    assert seen_before(four, SPHERE).tolist() == [False, False, True, False], "the last could be the first alone, which has its own"


def test_a_hand_is_where_and_as_large_as_its_view_shows_it() -> None:
    """Its size is the larger of two angles; the middle of the pixels is not quite that of the angle."""
    for degrees, size in ((3.0, 4.0), (25.0, 8.0), (-100.0, 6.0)):
        view = showing(degrees)[0]
        wide, high, narrow = at(view, degrees, size), at(view, degrees, size), at(view, degrees, size / 2)
        wide[1][1::2], high[1][::2] = narrow[1][1::2], narrow[1][::2]
        for one in (wide, high):
            direction, found, _, off_axis = _directions(hands(one, at(view, degrees + 9, 1.0)), SPHERE)
            np.testing.assert_allclose(direction[0], ray(degrees), atol=0.003)
            assert np.degrees(found) == pytest.approx([size, 1.0], rel=0.01)
            axis = rays_of(SPHERE, view, np.array([camera_of_view(SPHERE, view).principal]))[0]
            assert np.degrees(off_axis) == pytest.approx(np.degrees(np.arccos([ray(degrees) @ axis, ray(degrees + 9) @ axis])), abs=0.2)


def test_a_hand_is_whole_where_a_twentieth_of_it_is_free_on_every_side() -> None:
    view = camera_of_view(FISHEYE, 0)
    assert view.width > view.height
    rows = []
    for free in (9.0, 11.0):  # pixels, of boxes whose longer side is 200
        rows += [[free, 300, free + 200, 400], [300, free, 400, free + 200]]
        rows += [[view.width - free - 200, 300, view.width - free, 400], [300, view.height - free - 100, 500, view.height - free]]
    assert _directions(hands(*[(0, [*map(float, box)]) for box in rows]), FISHEYE)[2].tolist() == [False] * 4 + [True] * 4


def test_a_hand_without_any_size_is_no_other() -> None:
    degrees, (near, far, *_) = between()
    for rows in ((at(near, degrees), at(far, degrees, 0.0)), (at(near, degrees, 0.0), at(far, degrees))):
        assert not seen_before(hands(*rows), SPHERE).any()


def test_an_image_that_ends_has_no_seam() -> None:
    for middle in ((200.0, 500.0), (900.0, 300.0)):
        box = [middle[0] - 80, middle[1] - 60, middle[0] + 80, middle[1] + 60]
        found = placed(hands((0, box)), FISHEYE)
        corners = to_source(FISHEYE, 0, np.array([box[:2], box[2:], [box[0], box[3]], [box[2], box[1]]]))
        assert (found.box_source[0, :2] <= corners.min(0) + 1e-3).all()
        assert (found.box_source[0, 2:] >= corners.max(0) - 1e-3).all()
        assert found.box_source[0] == pytest.approx([*corners.min(0), *corners.max(0)], abs=6)
        np.testing.assert_allclose(found.keypoints_source[0], to_source(FISHEYE, 0, found.keypoints[0, :, :2]), atol=1e-3)


def test_a_box_in_the_videos_own_pixels_holds_its_border_also_across_the_seam() -> None:
    assert len(placed(RefusedHands.empty(), SPHERE)) == 0
    for degrees, size in ((0.0, 40.0), (60.0, 12.0), (178.0, 12.0), (-178.0, 12.0)):
        view = showing(degrees)[0]
        found = placed(hands(at(view, degrees, size)), SPHERE)
        share = np.linspace(0, 1, 101)
        low, high = found.box[0, :2].astype(np.float64), found.box[0, 2:].astype(np.float64)
        edges = [np.stack([low[0] + share * (high[0] - low[0]), np.full(101, y)], 1) for y in (low[1], high[1])]
        edges += [np.stack([np.full(101, x), low[1] + share * (high[1] - low[1])], 1) for x in (low[0], high[0])]
        border = to_source(SPHERE, view, np.concatenate(edges))
        middle = to_source(SPHERE, view, (low + high) / 2)
        border[:, 0] = middle[0] + (border[:, 0] - middle[0] + 1200) % 2400 - 1200
        assert found.box_source[0] == pytest.approx([*border.min(0), *border.max(0)], abs=1)
        assert found.box_source[0, 2] - found.box_source[0, 0] < 400
        true = to_source(SPHERE, view, found.keypoints[0, :, :2])
        true[:, 0] = middle[0] + (true[:, 0] - middle[0] + 1200) % 2400 - 1200
        np.testing.assert_allclose(found.keypoints_source[0], true, atol=0.1)
        shown = in_video(found)
        np.testing.assert_array_equal(shown.box, found.box_source)
        np.testing.assert_array_equal(shown.keypoints[..., :2], found.keypoints_source)
        back: Any = swapped(swapped(found))
        assert (back.box.tolist(), back.box_source.tolist()) == (found.box.tolist(), found.box_source.tolist())
        assert swapped(found).box.tolist() == found.box_source.tolist()
    plain = replace(found, box_source=np.full((1, 4), np.nan, np.float32))
    np.testing.assert_array_equal(in_video(plain).box, plain.box)
    np.testing.assert_array_equal(in_video(plain).keypoints, plain.keypoints)
