"""Labelled video from nothing: the stand-in hand rendered with exact ground truth."""
