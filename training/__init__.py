"""Shards in, checkpoints out: the shard loader, the trainer, the hand detector and the MANO regressor."""
