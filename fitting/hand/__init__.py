"""MANO itself: geometry, kinematics, anatomy and the readers of its file."""
