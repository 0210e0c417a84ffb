"""Hands drawn on images, contact sheets, charts and tables."""
