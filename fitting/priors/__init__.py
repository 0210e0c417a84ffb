"""What hands do: the PCA prior of poses (WiLoR, eq. 4), hulls of joint angles, and ARCTIC, on which both are learned."""
