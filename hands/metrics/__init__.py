"""How good hands are: pure functions over predictions and labels."""
