"""What every stage uses: the run context, the audit trail and face crops."""
