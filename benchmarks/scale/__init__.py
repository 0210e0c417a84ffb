"""What a clip costs as a dataset grows, with stages that do next to nothing."""
