"""What a plan goes by: the contents of videos, and fingerprints of versions before."""
