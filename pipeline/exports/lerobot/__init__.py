"""LeRobot v3 datasets of hands."""
