"""Video files: what they hold, their frames, and fetching them."""
