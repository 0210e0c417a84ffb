"""Priors of the hand's pose: the PCA of poses (WiLoR, eq. 4), and ARCTIC, on which it is learned."""
