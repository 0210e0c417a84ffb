"""Readers of labelled pictures, one file a format: each an iterator of `LabelledPicture`, which one function judges a detector by."""
