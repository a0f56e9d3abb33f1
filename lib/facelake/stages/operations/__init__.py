"""Running a lake: status, metrics, vacuum, verification."""
