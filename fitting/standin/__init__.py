"""How the stand-in hand is made: a procedural hand in MANO's format."""
