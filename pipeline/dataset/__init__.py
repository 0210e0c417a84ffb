"""Files beside the shards: index, statistics and card; shards of rendered hands."""
