"""Geometry of the MANO hand: tensors in, tensors out."""
