"""Measurements side by side with named peers, in one run; results as JSON under benchmarks/results/."""
