"""Runs the graph of stages: what is stored, what is pending, who works on it."""
