"""From admitted photos to faces, and what that will cost."""
