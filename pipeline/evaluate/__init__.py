"""The chain measured against labelled frames and against the studio's truth."""
