"""Cameras of videos: what is said of them, the views they are looked at through."""
