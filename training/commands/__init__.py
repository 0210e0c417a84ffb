"""Handlers of training's commands, from the options that `training.cli` reads."""
