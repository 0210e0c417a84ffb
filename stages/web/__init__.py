"""Videos from the web: one try in a process of its own, within bounds; addresses, refusals, and the note beside a file."""
