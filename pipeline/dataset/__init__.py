"""What lies beside the shards: index, statistics and card; shards of rendered hands."""
