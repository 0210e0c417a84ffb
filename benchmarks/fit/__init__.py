"""The fit beside its peers: speed, millimetres, tracks, and the way from image to hand."""
