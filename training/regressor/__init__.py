"""The MANO regressor of WiLoR's section 4.2: a ViT with pose tokens, and a refinement that samples its features at the projected mesh."""
