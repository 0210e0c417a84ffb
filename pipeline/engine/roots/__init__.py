"""Data folders in an object store: what they are called, what is asked of the store, their mirrors here, and who may write."""
