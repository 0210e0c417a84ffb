"""Fusion of what several detectors say: one list of hands and of people from many."""
