"""A training run of any task: loop, launch, optimizer, checkpoints, log."""
