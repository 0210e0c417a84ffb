"""The ground that pipeline and training share: how good hands are, and how they are drawn."""
