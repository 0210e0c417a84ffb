"""Datasets in the formats of other programs: one file a format, read from the shards as a stream."""
