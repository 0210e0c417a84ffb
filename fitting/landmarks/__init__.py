"""A detector's landmarks beside the model's joints: where they differ, and what they say of depth."""
