"""Exports read back by the libraries they are for, and how fast they are written."""
