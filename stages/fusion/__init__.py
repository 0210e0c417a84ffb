"""What several detectors say together: one list of hands and of people from many."""
