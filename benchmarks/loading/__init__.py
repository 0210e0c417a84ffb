"""The loader of shards beside its peers."""
