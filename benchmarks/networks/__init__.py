"""Detectors and regressor, those that are shipped and those that are trained, beside their peers."""
