"""What leaves the lake: exports, and the leases under which recipients hold them."""
