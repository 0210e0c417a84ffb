"""Runs the stages: manifest, store, graph, local and Ray executors, command line, recipes, report."""
