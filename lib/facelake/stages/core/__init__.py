"""What every stage uses: the opened lake with its config, the audit trail, face crops."""
