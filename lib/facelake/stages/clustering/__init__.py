"""From faces to groups: full and incremental clustering."""
