"""Which photos may be processed: the ledger of legal bases, imports, withdrawn datasets, admission decisions."""
