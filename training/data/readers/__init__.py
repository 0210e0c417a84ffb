"""Readers of labelled images, one file a format: each an iterator of `LabelledImage`, which one function judges a detector by."""
