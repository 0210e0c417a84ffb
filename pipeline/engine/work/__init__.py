"""What a worker does with an item beside calling its stages: what its stages read, fetched videos, failures."""
