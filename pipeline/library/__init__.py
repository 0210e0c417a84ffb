"""The project as a library: the hands and frames of a data folder, and the whole chain on any file."""
