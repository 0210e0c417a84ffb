"""The MANO regressor: a vision transformer, a multi-scale refinement, their losses, data and training."""
