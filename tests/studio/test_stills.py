"""The stills' promise: every picture shows the pose that its truth says, and an album is one person and no two."""

import numpy as np
import pytest
import torch

from fitting.hand.mano import pose_either_hand
from studio.hand import studio_model
from studio.render import SUPERSAMPLE
from studio.stills import Album, render_album

ALBUM = Album(seed=3, num_pictures=10, size=128, two_hands=1.0)


@pytest.fixture(scope="module")
def pictures() -> list:
    return list(render_album(ALBUM))


def test_parameters_give_the_keypoints_through_the_pinhole(pictures: list) -> None:
    rows = [row for _, rows in pictures for row in rows]
    truth = {name: torch.as_tensor(np.stack([row[name] for row in rows])) for name in rows[0]}
    posed = pose_either_hand(studio_model(), truth["side"], truth["betas"], truth["global_orient"], truth["hand_pose"])
    torch.testing.assert_close(posed.joints, truth["joints_3d"], atol=1e-6, rtol=0)
    seen = posed.joints + truth["transl"][:, None]
    pixels = truth["focal_px"][:, None, None] * seen[..., :2] / seen[..., 2:] + ALBUM.size / 2
    torch.testing.assert_close(pixels, truth["keypoints"], atol=1e-3, rtol=0)


def test_boxes_fit_the_drawn_hands(pictures: list) -> None:
    checked = 0
    for picture, rows in pictures:
        for row in rows:
            if row["visible"] < 0.97 or row["inside"] < 0.999:
                continue
            y, x = np.nonzero(picture.part_at == row["side"])
            drawn = (np.array([x.min(), y.min(), x.max(), y.max()]) + 0.5) / SUPERSAMPLE
            np.testing.assert_allclose(drawn, row["box"], atol=1.5)
            checked += 1
    assert checked >= 4


def test_pictures_of_an_album_share_the_hand_and_not_the_pose(pictures: list) -> None:
    by_side = [[row for _, rows in pictures for row in rows if row["side"] == side] for side in (0, 1)]
    assert [len(rows) for rows in by_side] == [10, 10]
    for rows in by_side:
        assert len({row["betas"].tobytes() for row in rows}) == 1
        poses = np.stack([row["hand_pose"] for row in rows])
        assert np.abs(poses[1:] - poses[:-1]).max(1).min() > 0.2


def test_a_seed_is_one_album(pictures: list) -> None:
    again = next(iter(render_album(ALBUM)))[0].image
    assert np.array_equal(again, pictures[0][0].image)
    other = next(iter(render_album(Album(seed=4, num_pictures=1, size=128))))[0].image
    assert not np.array_equal(other, again)


def test_bad_settings_are_named() -> None:
    with pytest.raises(ValueError, match=r"album\.size must be a multiple of 4"):
        Album(size=63)
    with pytest.raises(ValueError, match=r"album\.num_pictures"):
        Album(num_pictures=0)
