"""What hands do: the PCA prior of poses (WiLoR, eq. 4), and ARCTIC, on which it is learned."""
