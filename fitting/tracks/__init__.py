"""Hands of one track fitted together: smooth in time, one shape."""
