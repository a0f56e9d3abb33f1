"""Operating a lake: status, metrics, vacuum and verification."""
