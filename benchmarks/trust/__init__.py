"""Kills, failing system calls, flipped bits and hostile inputs against the real chain."""
