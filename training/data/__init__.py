"""Shards in, batches out: reading, order, loading, and the readers of other data sets."""
