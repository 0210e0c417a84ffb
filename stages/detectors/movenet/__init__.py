"""MoveNet MultiPose (Google, Apache-2.0): many people of a picture at once, with 17 keypoints each."""
