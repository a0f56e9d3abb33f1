"""What the review page shows and records."""
