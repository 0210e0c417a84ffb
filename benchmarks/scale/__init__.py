"""Cost of a clip as a dataset grows, with stages that do next to nothing."""
