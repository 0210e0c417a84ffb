"""Video files: what they hold, and their frames."""
