"""Detectors behind the stages: images or crops in, columns out. One adapter a file."""
