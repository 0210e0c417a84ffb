"""AlphaPose's FastPose: whole-body keypoints."""
