"""Handlers of the pipeline's commands, from the options that `pipeline.cli` reads. Heavy imports lie inside: the help needs none."""
