"""ViTPose: whole-body keypoints, by transformers or by mmpose."""
